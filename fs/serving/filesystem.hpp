// All parts of the filesystem, put together in the order in which they depend on each other.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/kept_memory.hpp"
#include "fs/handover/notes.hpp"
#include "fs/limits/limit_files.hpp"
#include "fs/limits/limit_follows.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/metering/data_path.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/metering.hpp"
#include "fs/texts/quota_files.hpp"
#include "fs/texts/usage_files.hpp"
#include "fs/texts/virtual_tree.hpp"
#include "fs/tree/tree.hpp"

namespace limaquota {

struct FilesystemOptions {
  std::string backing_options;  // the backing filesystem's own mount options
  std::vector<std::string>
      homes;             // absolute paths of the Lima home: where it is mounted (first) and where it is from
  bool noatime = false;  // reading leaves access times alone
  int refusal = ENOSPC;  // what is beyond a budget: ENOSPC or EDQUOT
  // Another data path than the metered one, for every inode; empty: none.
  std::function<std::unique_ptr<DataPath>(const Backing& backing)> make_data_path;
};

// Thread safety: the parts say it themselves; the constructor and destructor need the only thread.
class Filesystem {
 public:
  // `notes`: what outlives this process, and what a worker before left there.
  Filesystem(Sys& sys, Notes& its_notes, Fd root, const FilesystemOptions& options);
  ~Filesystem();
  Filesystem(const Filesystem&) = delete;
  Filesystem& operator=(const Filesystem&) = delete;

  // Where the data of an inode go. One that is not open, and never was, is metered.
  DataPath& data(const Inode& inode);
  // The choice, when it is opened. The caller holds inode.open_mutex.
  void choose_data(Inode& inode);

  // Charges the tree, and takes over what a worker before had of `descriptors` (fs/handover/notes.hpp).
  Result<void> start(const std::vector<int>& descriptors);
  // After that: starts the thread that settles and ends loans. That calls `in_doubt` again and again once
  // something was not done to its end, a lack of memory as a rule: what was done may not be booked.
  void settle(std::function<void()> in_doubt);
  // From any thread.
  void doubt() { doubtful_ = true; }

  Notes& notes;
  const int open_flags;  // O_NOATIME, or none
  Backing backing;
  Ledger ledger;
  InodeTable table;
  LimitFiles limit_files;
  LimitStore limits;
  LimitFollows limit_follows;
  KeptMemory memory;
  Metering metering;
  Tree tree;
  UsageFiles usage;
  QuotaFiles quota;
  VirtualTree virtual_tree;

 private:
  std::unique_ptr<DataPath> other_data_;  // null: the metered one
  bool sync_later_ = false;               // of the settler's thread, once there is one
  std::atomic<bool> doubtful_{false};
};

}  // namespace limaquota
