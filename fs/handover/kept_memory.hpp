// What accounts remember since the mount (their peak, what was refused), kept for the next worker: nothing
// but the ledger knows it, so a scan cannot find it.
#pragma once

#include <cstdint>
#include <vector>

#include "accounting/ledger.hpp"
#include "fs/handover/notes.hpp"

namespace limaquota {

// Thread safety: of one thread at a time. What came after the last `keep` is lost with its worker.
class KeptMemory {
 public:
  KeptMemory(Ledger& ledger, Notes& notes) : ledger_(ledger), notes_(notes) {}

  // Goes on with what the worker before kept of the accounts that there are.
  void take_over();
  void keep();

 private:
  Ledger& ledger_;
  Notes& notes_;
  std::vector<uint32_t> numbers_;  // by account: its number in the notes; 0: not asked for yet
};

}  // namespace limaquota
