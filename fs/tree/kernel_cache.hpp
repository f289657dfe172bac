// What the tree asks of the kernel: to forget names where it knows so many inodes that descriptors run short,
// and whether it has an inode in memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "fs/metering/inode_table.hpp"
#include "fs/system/node_id.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class KernelCache {
 public:
  explicit KernelCache(const InodeTable& table) : table_(table) {}

  // Set by the session while it lives, and taken back (empty) before it ends.
  struct Kernel {
    std::function<void(NodeId parent, const std::string& name)> forget_name;
    std::function<bool(NodeId id)> knows;  // whether it has the inode in memory now
  };
  void set_kernel(Kernel kernel);
  // Not to be called by a thread that serves a request: the kernel may hold the directory's lock for that
  // very request.
  void forget_some();
  // Whether it knows so many now; and whether half as many again, for which there are hardly descriptors
  // left.
  bool knows_many() const { return table_.known() > most_known_; }
  bool knows_too_many() const { return table_.known() / 3 > most_known_ / 2; }
  // By a request that makes it know one more: returns once it was looked what may be forgotten, or while
  // names are being forgotten. A name goes as soon as no lookup in its directory is under way, so a request
  // that waited for more than that would wait for itself. False where nobody looked for a second.
  bool wait_for_forgetting();
  // Calls `ask(knows)` where there is a kernel to ask.
  template <class Ask>
  void ask(Ask ask) {
    const std::lock_guard lock(mutex_);
    if (kernel_.knows) ask(kernel_.knows);
  }

 private:
  void begin_forgetting();
  void end_forgetting();

  const InodeTable& table_;
  std::atomic<size_t> most_known_{SIZE_MAX};  // inodes that it may know before it is made to forget some
  std::mutex mutex_;
  Kernel kernel_;  // guarded by mutex_, which is held while it is called
  std::mutex forgetting_mutex_;
  std::condition_variable looked_;
  uint64_t looks_ = 0;       // guarded by forgetting_mutex_: how often it was looked what may be forgotten
  bool forgetting_ = false;  // guarded by forgetting_mutex_
};

}  // namespace limaquota
