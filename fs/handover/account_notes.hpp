// Names of accounts, by a number that stays, and what they remember since the mount: notes in the memory that
// outlives a worker.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "accounting/ledger.hpp"

namespace limaquota {

// Lies in shared memory that is zero at first. Thread safety: any thread of one process, but for `memory`.
class AccountNotes {
 public:
  // The number of the account, given to it where it has none yet; 0 where there is no room for its name.
  uint32_t number_of(std::string_view name);
  // Empty for a number that stands for none.
  std::string name(uint32_t number) const;
  uint32_t count() const { return count_; }  // the largest number
  // Of an account, by its number from 1 on: written by one thread, word by word.
  Ledger::Memory& memory(uint32_t number) { return memories_[number - 1]; }

 private:
  static constexpr size_t most = 65536;
  static constexpr size_t longest_name = 288;
  static_assert(std::is_trivially_copyable_v<Ledger::Memory>);
  std::atomic<uint32_t> count_;
  char names_[most][longest_name];
  Ledger::Memory memories_[most];
};

}  // namespace limaquota
