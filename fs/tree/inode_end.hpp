// The end of an inode: its names go, its last user lets go of it, and its blocks come back. In that order:
// the descriptor is closed first, then the charge is given back, so that no figure falls before du's does.
#pragma once

#include <cstdint>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/settle_list.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/standing.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. The caller holds no inode's mutex.
class InodeEnd {
 public:
  InodeEnd(const Backing& backing, Ledger& ledger, InodeTable& table, SettleList& list,
           InodeCharges& inode_charges, Accounts& accounts)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        list_(list),
        inode_charges_(inode_charges),
        accounts_(accounts) {}

  // The kernel forgets so many lookups of it; 0: it is off the settle list, or was closed.
  void forget(NodeId id, uint64_t count);
  // A descriptor of the inode was closed.
  void closed(const InodePtr& inode);
  // Before an operation that takes a name away: the inode may lose its last one while it is open, and the
  // next worker must know where it is charged.
  void name_goes(const Standing& standing);
  // After the operation that took one of its names, in `account`, away.
  void name_gone(Standing standing, AccountId account);

 private:
  void let_die(const InodePtr& inode);

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  SettleList& list_;
  InodeCharges& inode_charges_;
  Accounts& accounts_;
};

}  // namespace limaquota
