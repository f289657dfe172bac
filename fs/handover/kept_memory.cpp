#include "fs/handover/kept_memory.hpp"

#include "fs/handover/notes.hpp"

namespace limaquota {

void KeptMemory::take_over() {
  if (handover == nullptr) return;
  for (uint32_t i = 1; i <= handover->accounts(); ++i) {
    const auto account = ledger_.find(handover->account_name(i));
    if (account) ledger_.remember(*account, handover->memory(i));
  }
}

void KeptMemory::keep() {
  if (handover == nullptr) return;
  index_.resize(ledger_.ids());
  for (AccountId account = 0; account < index_.size(); ++account) {
    const auto memory = ledger_.memory(account);
    if (!memory) continue;
    uint32_t& index = index_[account];
    if (index == 0) index = handover->account_index(ledger_.name(account));
    if (index != 0) handover->memory(index) = *memory;
  }
}

}  // namespace limaquota
