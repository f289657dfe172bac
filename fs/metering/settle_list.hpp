// The settle list: inodes whose blocks may still come or go without a call of ours (ext4 adds leaf blocks at
// writeback, XFS drops preallocation minutes later). What is on it stays in the inode table.
#pragma once

#include <unordered_map>
#include <vector>

#include "accounting/mutex.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. Lock order: inode.mutex, then mutex_.
class SettleList {
 public:
  explicit SettleList(const InodeTable& table) : table_(table) {}

  // Only inodes in the table are taken.
  void add(Inode& inode) REQUIRES(inode.mutex);
  void remove(Inode& inode) REQUIRES(inode.mutex);
  std::vector<InodePtr> all() const;
  size_t size() const;

 private:
  const InodeTable& table_;
  mutable Mutex mutex_;
  std::unordered_map<NodeId, InodePtr> list_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
