// Taking over from a worker that died: what the kernel knows and has open, by the descriptors that stayed.
#pragma once

#include <chrono>
#include <vector>

#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/settle_list.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/entries.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/kernel_cache.hpp"

namespace limaquota {

class Takeover {
 public:
  Takeover(const Backing& backing, Notes& notes, Ledger& ledger, InodeTable& table,
           InodeCharges& inode_charges, SettleList& list, const Accounts& accounts, Charges& charges,
           const Entries& entries, InodeEnd& ends, KernelCache& kernel)
      : backing_(backing),
        notes_(notes),
        ledger_(ledger),
        table_(table),
        inode_charges_(inode_charges),
        list_(list),
        accounts_(accounts),
        charges_(charges),
        entries_(entries),
        ends_(ends),
        kernel_(kernel) {}

  // After the scan, by the only thread: the inodes that the kernel knows and the files it has open, by the
  // descriptors of the worker before.
  Result<void> run(const std::vector<int>& descriptors);
  // An open file was taken over of which the kernel never learned. From any thread.
  void never_known(int fd);
  // A kill may leave more lookups noted than the kernel has: asks it for inodes that were taken over, until
  // that is settled for each. Of one thread.
  void go_on();

 private:
  InodePtr take_path(Fd path, uint64_t lookups, uint32_t account);
  Result<void> take_open(int fd);

  const Backing& backing_;
  Notes& notes_;
  Ledger& ledger_;
  InodeTable& table_;
  InodeCharges& inode_charges_;
  SettleList& list_;
  const Accounts& accounts_;
  Charges& charges_;
  const Entries& entries_;
  InodeEnd& ends_;
  KernelCache& kernel_;
  std::vector<InodeTable::Doubtful> unknown_;  // that the kernel did not know when it was asked
  std::chrono::steady_clock::time_point ask_next_;
};

}  // namespace limaquota
