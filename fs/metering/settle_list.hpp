// The settle list: inodes whose blocks may still come or go without a call of ours (ext4 adds leaf blocks at
// writeback, XFS drops preallocation minutes later). What is on it stays in the inode table.
#pragma once

#include <mutex>
#include <unordered_map>
#include <vector>

#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. Lock order: inode.mutex, then mutex_.
class SettleList {
 public:
  explicit SettleList(const InodeTable& table) : table_(table) {}

  // The caller holds inode.mutex. Only inodes in the table are taken.
  void add(Inode& inode);
  void remove(Inode& inode);
  std::vector<InodePtr> all() const;
  size_t size() const;

 private:
  const InodeTable& table_;
  mutable std::mutex mutex_;
  std::unordered_map<NodeId, InodePtr> list_;  // guarded by mutex_
};

}  // namespace limaquota
