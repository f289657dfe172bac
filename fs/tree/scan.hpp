// The scan at mount: charges every inode of the tree, each once in each account that has a name of it
// (P2, P10).
#pragma once

#include <string>
#include <unordered_map>

#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/holders.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/settle_list.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/entries.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/limit_files_charge.hpp"

namespace limaquota {

class Scan {
 public:
  Scan(const Backing& backing, Ledger& ledger, InodeTable& table, InodeCharges& inode_charges,
       SettleList& list, Accounts& accounts, Charges& charges, Entries& entries, InodeEnd& ends,
       LimitFilesCharge& limit_files)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        inode_charges_(inode_charges),
        list_(list),
        accounts_(accounts),
        charges_(charges),
        entries_(entries),
        ends_(ends),
        limit_files_(limit_files) {}

  // Called once, before the mount is served, by the only thread.
  Result<void> run();

 private:
  // A directory that is gone through, and what its entries count as.
  struct Directory {
    int fd;
    Role role;
    AccountId account;
  };
  Result<void> scan_directory(const Directory& directory);
  Result<void> scan_entry(const Directory& directory, const std::string& name);
  void charge(NodeId id, const Directory& directory, const std::string& name, const struct stat& st,
              const Child& child);
  void adopt(NodeId id, int dir, const std::string& name, const struct stat& st);

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  InodeCharges& inode_charges_;
  SettleList& list_;
  Accounts& accounts_;
  Charges& charges_;
  Entries& entries_;
  InodeEnd& ends_;
  LimitFilesCharge& limit_files_;
  std::unordered_map<NodeId, Holders> links_;  // inodes with several links: where their names are
};

}  // namespace limaquota
