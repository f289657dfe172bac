// The settle list: inodes written to, whose blocks may still come or go without a call of ours (ext4 adds
// leaf blocks at writeback, XFS drops preallocation minutes later). Each is looked at again until it is known
// clean.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"

namespace limaquota {

class MeteredIo;

// Thread safety: all functions may be called from any thread. Lock order: inode.mutex, then mutex_.
class Settler {
 public:
  Settler(const Backing& backing, Ledger& ledger, InodeTable& table)
      : backing_(backing), ledger_(ledger), table_(table) {}
  ~Settler() { stop(); }

  // Starts the thread that looks after the list. `let_go` gets inodes that are off it; `each_look` is called
  // every time.
  void start(MeteredIo& io, std::function<void(const InodePtr&)> let_go, std::function<void()> each_look);
  void stop();
  // Calls `each_look` soon, without waiting for the next look at the list.
  void hurry();

  // The caller holds inode.mutex. Only inodes in the table are taken.
  void add(Inode& inode);
  void remove(Inode& inode);
  // Settles every listed inode now that these accounts pay for, or `all`, but those whose mutex is held:
  // something changes them anyway. The caller holds no inode's mutex. True where anything was given back.
  bool settle_accounts(const boost::container::small_vector<AccountId, 2>& accounts, bool all);
  // A look was broken off by an exception. Set before start().
  std::function<void()> on_thrown;

 private:
  void guarded(const std::function<void()>& look);
  std::vector<InodePtr> listed() const;
  void run();
  void look_at(const InodePtr& inode, bool crowded);

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  MeteredIo* io_ = nullptr;
  std::function<void(const InodePtr&)> let_go_;
  std::function<void()> each_look_;
  std::thread thread_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // guarded by mutex_
  std::unordered_map<NodeId, InodePtr> list_;
  bool stopping_ = false;
  bool hurried_ = false;
};

}  // namespace limaquota
