// The figures that limaquota shows: what `.usage` files, the JSON and the Prometheus text are made of.
// Plain values, taken from the ledger as one consistent snapshot.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/bytes.hpp"

namespace limaquota {

// Nothing can be allocated in less: what leaves less leaves no room.
inline constexpr Bytes smallest_write = Bytes(4096);

// ok; warn: used is at the warning mark of the disk line; full: the budget leaves a disk file nothing;
// host_full: the budget would, the host would not; over: used is above the limit; damaged: the limit file
// could not be read, so that the last good or the default limit holds; outside: the VM directory or a disk is
// a symlink out of the tree and not limited.
enum class AccountState { ok, warn, full, host_full, over, damaged, outside };
inline constexpr AccountState account_states[] = {
    AccountState::ok,   AccountState::warn,    AccountState::full,   AccountState::host_full,
    AccountState::over, AccountState::damaged, AccountState::outside};
std::string_view to_string(AccountState state);

// One disk file of an account.
struct DiskFigures {
  std::string name;    // path inside the VM directory ("disk"), or "_disks/<name>/datadisk"
  std::string format;  // "raw" or "qcow2"
  Bytes allocated;     // st_blocks * 512
  Bytes virtual_size;  // what the guest sees
};

struct AccountFigures {
  std::string name;                  // "<vm>", "_disks/<name>" or "_shared": the path below .usage
  Bytes limit = Bytes::unlimited();  // loan included
  Bytes used;
  Bytes reserved;
  Bytes available = Bytes::unlimited();  // limit - used - reserved, at least 0; unlimited where limit is
  Bytes writable;                        // what a disk write may take now
  Bytes peak;                            // the largest `used` since the mount
  Bytes virtual_size;                    // sum over the disks
  AccountState state = AccountState::ok;
  uint64_t refused_writes = 0;
  uint64_t refused_bytes = 0;
  uint64_t growth_per_second = 0;           // bytes
  std::optional<uint64_t> seconds_to_full;  // none: `max`
  Bytes disk_line = Bytes::unlimited();     // limit - control reserve
  std::optional<Bytes> loan;                // while one is in force
  bool has_limit_file = false;              // else the default applies
  std::optional<std::string> charged_to;    // the VM that an attached disk is charged to
  std::vector<DiskFigures> disks;
};
// What `limit_file` says: "yes", "no", or "damaged" where it cannot be read.
std::string_view limit_file_of(const AccountFigures& account);

struct HostFigures {
  Bytes free;     // f_bavail of the backing filesystem
  Bytes reserve;  // the host reserve
  Bytes used;     // by all accounts
  Bytes limits;   // sum of the VMs' and detached disks' limits; unlimited if one is
  Bytes
      worst_case;  // what all accounts may still grow by: sum of min(limit, virtual) - used, each at least 0
  Bytes overcommit;  // worst_case beyond free - reserve; 0 is safe
};

// One moment of everything.
struct Snapshot {
  HostFigures host;
  std::vector<AccountFigures> accounts;  // VMs by name, then _disks/..., then _shared
};

}  // namespace limaquota
