#include "fs/handover/kept_memory.hpp"

namespace limaquota {

void KeptMemory::take_over() {
  for (uint32_t i = 1; i <= notes_.accounts.count(); ++i) {
    const auto account = ledger_.find(notes_.accounts.name(i));
    if (account) ledger_.remember(*account, notes_.accounts.memory(i));
  }
}

void KeptMemory::keep() {
  numbers_.resize(ledger_.ids());
  for (AccountId account = 0; account < numbers_.size(); ++account) {
    const auto memory = ledger_.memory(account);
    if (!memory) continue;
    uint32_t& number = numbers_[account];
    if (number == 0) number = notes_.accounts.number_of(ledger_.name(account));
    if (number != 0) notes_.accounts.memory(number) = *memory;
  }
}

}  // namespace limaquota
