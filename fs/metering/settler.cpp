#include "fs/metering/settler.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {
using namespace std::chrono_literals;
// How stale a figure may be that the backing filesystem changed by itself.
constexpr auto look_interval = 100ms;
// The least time between two looks that somebody hurried.
constexpr auto hurry_interval = 5ms;
constexpr size_t crowd_size = 1000;
// The kernel writes dirty pages back after 30 s: from then on, forcing it costs nothing.
constexpr auto written_back_after = 35s;
// XFS drops copy-on-write preallocation after 5 minutes (cowgc), preallocation past the end after 5
// (blockgc).
constexpr auto preallocation_gone_after = 11min;
}  // namespace

// Whatever escapes, a lack of memory above all, is told, and the next look comes.
void Settler::guarded(const std::function<void()>& look) {
  try {
    look();
  } catch (const std::exception& thrown) {
    log_error("internal: {}", thrown.what());
    if (hooks_.on_thrown) hooks_.on_thrown();
  }
}

void Settler::start(Hooks hooks) {
  hooks_ = std::move(hooks);
  thread_ = std::thread([this] { run(); });
}

void Settler::stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Settler::hurry() {
  const MutexLock lock(mutex_);
  if (std::exchange(hurried_, true)) return;
  wake_.notify_all();
}

void Settler::look_at(const InodePtr& inode, Crowd crowd) {
  {
    if (!inode->mutex.try_lock()) return;  // being changed: it will be observed by the one who does
    const MutexLock lock(inode->mutex, std::adopt_lock);
    if (inode->dead) {
      list_.remove(*inode);
      return;
    }
    const AllocationRules& rules = backing_.rules();
    const auto now = std::chrono::steady_clock::now();
    // Each inode on the list costs a descriptor: with many, closed files are settled at once.
    const bool let_off = crowd == Crowd::many && inode->opens == 0;
    const auto dirty = [&]() REQUIRES(inode->mutex) {
      // Of what is not written back yet nothing comes where no slack is held for it: it may go as it is.
      const bool harmless = let_off && inode->slack == Bytes(0);
      return (inode->unsettled > 0 && !harmless) || inode->is_unknown;
    };
    if (dirty() && (let_off || now - inode->dirty_since > written_back_after)) {
      settling_.settle(*inode, Settling::Preallocation::stays);
    } else {
      charges_.observe(*inode);
    }
    const bool may_shrink = rules.preallocates() && now - inode->last_write < preallocation_gone_after;
    const bool gives_back = rules.gives_back_by_itself && inode->charge.bytes > Bytes(0);
    const bool recent = now - inode->last_write < written_back_after;
    // Unwritten blocks stay reserved for as long as they are there.
    const bool owes = dirty() || inode->unwritten > 0;
    if (owes || (!let_off && (may_shrink || gives_back || recent))) return;
    list_.remove(*inode);
  }
  hooks_.let_go(inode);
}

void Settler::look_at_all() {
  hooks_.each_look();
  const auto inodes = list_.all();
  const Crowd crowd = inodes.size() > crowd_size ? Crowd::many : Crowd::few;
  for (const InodePtr& inode : inodes) look_at(inode, crowd);
}

Settler::Woken Settler::wait(std::chrono::steady_clock::time_point until) {
  const MutexLock lock(mutex_);
  while (!stopping_ && !hurried_) {
    if (!wake_.wait_until(mutex_, until)) break;
  }
  if (stopping_) return Woken::to_stop;
  return std::exchange(hurried_, false) ? Woken::to_hurry : Woken::by_time;
}

void Settler::run() {
  auto last_tick = std::chrono::steady_clock::now();
  for (;;) {
    // With many inodes on the list each is looked at more rarely.
    const auto until =
        std::chrono::steady_clock::now() +
        std::max<std::chrono::microseconds>(look_interval, std::min(list_.size(), crowd_size) * 50us);
    Woken woken = wait(until);
    for (; woken == Woken::to_hurry; woken = wait(until)) {
      guarded(hooks_.each_look);
      std::this_thread::sleep_for(hurry_interval);
    }
    if (woken == Woken::to_stop) return;
    guarded([this] { look_at_all(); });
    const auto now = std::chrono::steady_clock::now();
    if (now - last_tick >= 1s) {
      ledger_.tick(std::chrono::duration<double>(now - last_tick).count());
      last_tick = now;
    }
  }
}

}  // namespace limaquota
