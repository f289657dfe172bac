// What the limit files themselves occupy: it counts in `_shared`, as du counts it, though nothing limits it.
#pragma once

#include <atomic>
#include <optional>
#include <set>
#include <string_view>

#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/accounts.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class LimitFilesCharge {
 public:
  LimitFilesCharge(const Backing& backing, Ledger& ledger, const InodeTable& table,
                   InodeCharges& inode_charges, const Accounts& accounts)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        inode_charges_(inode_charges),
        accounts_(accounts) {}

  // Their blocks changed: charges them anew. False where something could not be looked at: to be tried again.
  bool recount();
  // Now and then: where that is still to be done, or blocks may have come or gone by themselves.
  void go_on();

 private:
  using SeenLinks = std::set<ino_t>;
  std::optional<Bytes> bytes_below(int dir, std::string_view name, SeenLinks& seen) const;

  const Backing& backing_;
  Ledger& ledger_;
  const InodeTable& table_;
  InodeCharges& inode_charges_;
  const Accounts& accounts_;
  Mutex mutex_;
  Bytes bytes_ GUARDED_BY(mutex_);
  std::atomic<bool> unknown_{false};
};

}  // namespace limaquota
