// What the ledger knows of one account: shared by the ledger's two source files, and nobody else.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "accounting/ledger.hpp"

namespace limaquota {

struct Ledger::Account {
  AccountId id = 0;
  std::string name;
  Limits limits;
  bool from_file = false;
  bool damaged = false;
  bool outside = false;
  std::optional<AccountId> charged_to;
  // Own figures; `attached` adds those of the disks charged to this account.
  Bytes own_used, own_in_flight, own_slack;
  Bytes attached_used, attached_in_flight, attached_slack;
  std::vector<uint64_t> disks;      // inodes of its disk records
  std::vector<AccountId> attached;  // the accounts charged to this one
  Bytes peak;
  Bytes planned_virtual;
  uint64_t refused_writes = 0;
  uint64_t refused_bytes = 0;
  bool pressed_budget = false;  // a disk write was refused and nothing much was freed since
  bool pressed_host = false;
  Growth growth;

  Bytes used() const { return own_used + attached_used; }
  Bytes in_flight() const { return own_in_flight + attached_in_flight; }
  Bytes slack() const { return own_slack + attached_slack; }
  Bytes reserved() const { return in_flight() + slack(); }
};

}  // namespace limaquota
