// What the tree asks of the kernel: to forget names where it knows so many inodes that descriptors run short,
// and whether it has an inode in memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "accounting/mutex.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/system/node_id.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class KernelCache {
 public:
  // Between two names that go, so many requests pass; each further one waits for the next, so long at most.
  static constexpr unsigned most_passes = 8;
  explicit KernelCache(const InodeTable& table,
                       std::chrono::milliseconds patience = std::chrono::milliseconds(20))
      : table_(table), patience_(patience) {}

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
  // By a request that makes it know one more: returns at the next look at what may be forgotten or, while
  // names are being forgotten and many requests passed since the last one went, when the next one goes. A
  // name goes when no lookup in its directory is under way, so the request may be what holds it up: then it
  // loses the patience, and no more. False where nothing came of the wait.
  bool wait_for_forgetting();
  // Calls `ask(knows)` where there is a kernel to ask.
  template <class Ask>
  void ask(Ask ask) {
    const MutexLock lock(mutex_);
    if (kernel_.knows) ask(kernel_.knows);
  }

 private:
  enum class Forgetting : uint8_t { no, yes };
  // A look began, or a name went, or the look ended.
  void step(Forgetting now);

  const InodeTable& table_;
  const std::chrono::milliseconds patience_;
  std::atomic<size_t> most_known_{SIZE_MAX};  // inodes that it may know before it is made to forget some
  Mutex mutex_;
  Kernel kernel_ GUARDED_BY(mutex_);  // which is held while it is called
  Mutex forgetting_mutex_;
  Condition stepped_;
  uint64_t steps_ GUARDED_BY(forgetting_mutex_) = 0;
  unsigned passes_ GUARDED_BY(forgetting_mutex_) = 0;  // since the last step
  Forgetting forgetting_ GUARDED_BY(forgetting_mutex_) = Forgetting::no;
};

}  // namespace limaquota
