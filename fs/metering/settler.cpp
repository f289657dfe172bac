#include "fs/metering/settler.hpp"

#include <algorithm>

#include "fs/metering/metered_io.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {
using namespace std::chrono_literals;
// How stale a figure may be that the backing filesystem changed by itself.
constexpr auto look_interval = 100ms;
// The least time between two looks that somebody hurried.
constexpr auto hurry_interval = 5ms;
constexpr size_t crowd = 1000;
// For an inode that another thread settles.
constexpr int most_waited_ms = 1000;
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
    if (on_thrown) on_thrown();
  }
}

void Settler::start(MeteredIo& io, std::function<void(const InodePtr&)> let_go,
                    std::function<void()> each_look) {
  io_ = &io;
  let_go_ = std::move(let_go);
  each_look_ = std::move(each_look);
  thread_ = std::thread([this] { run(); });
}

void Settler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Settler::hurry() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(hurried_, true)) return;
  wake_.notify_all();
}

void Settler::add(Inode& inode) {
  if (inode.listed) return;
  InodePtr pointer = table_.find(inode.id);
  if (pointer.get() != &inode) return;
  inode.listed = true;
  inode.dirty_since = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  list_[inode.id] = std::move(pointer);
}

void Settler::remove(Inode& inode) {
  if (!inode.listed) return;
  inode.listed = false;
  const std::lock_guard lock(mutex_);
  list_.erase(inode.id);
}

std::vector<InodePtr> Settler::listed() const {
  const std::lock_guard lock(mutex_);
  std::vector<InodePtr> all;
  all.reserve(list_.size());
  for (const auto& [id, inode] : list_) all.push_back(inode);
  return all;
}

bool Settler::settle_accounts(const boost::container::small_vector<AccountId, 2>& accounts, bool all) {
  bool any = false;
  boost::container::small_vector<AccountId, 2> payers;
  for (const AccountId account : accounts) payers.push_back(ledger_.payer(account));
  const auto is_paid = [&](const Inode& inode) {
    return std::find(payers.begin(), payers.end(), ledger_.payer(inode.charge.account)) != payers.end();
  };
  for (const InodePtr& inode : listed()) {
    if (!all && !is_paid(*inode)) continue;
    const std::unique_lock lock(inode->mutex, std::try_to_lock);
    if (!lock) {
      // What another one gives back is given back for us, too. It waits for the disk alone.
      for (int waited = 0; inode->being_settled && waited < most_waited_ms; ++waited) {
        std::this_thread::sleep_for(1ms);
        any = true;
      }
      continue;
    }
    if (inode->dead || inode->unsettled == 0 || inode->slack == Bytes(0)) continue;
    const Bytes before = inode->slack;
    io_->settle(*inode, false);
    any = any || inode->slack < before;
  }
  return any;
}

void Settler::look_at(const InodePtr& inode, bool crowded) {
  {
    const std::unique_lock lock(inode->mutex, std::try_to_lock);
    if (!lock) return;  // being changed: it will be observed by the one who does
    if (inode->dead) {
      remove(*inode);
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    // Each inode on the list costs a descriptor: with many, closed files are settled at once.
    const bool let_off = crowded && inode->opens == 0;
    const auto dirty = [&] {
      // Of what is not written back yet nothing comes where no slack is held for it: it may go as it is.
      const bool harmless = let_off && inode->slack == Bytes(0);
      return (inode->unsettled > 0 && !harmless) || inode->unknown_growth > Bytes(0);
    };
    if (dirty() && (let_off || now - inode->dirty_since > written_back_after)) {
      io_->settle(*inode, false);
    } else {
      io_->observe(*inode);
    }
    const bool may_shrink =
        backing_.rules().preallocates() && now - inode->last_write < preallocation_gone_after;
    const bool huge_pages = backing_.rules().gives_back_by_itself && inode->charge.bytes > Bytes(0);
    const bool recent = now - inode->last_write < written_back_after;
    // Unwritten blocks stay reserved for as long as they are there.
    const bool owes = dirty() || inode->unwritten > 0;
    if (owes || (!let_off && (may_shrink || huge_pages || recent))) return;
    remove(*inode);
  }
  let_go_(inode);
}

void Settler::run() {
  auto last_tick = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    // With many inodes on the list each is looked at more rarely.
    const auto until =
        std::chrono::steady_clock::now() +
        std::max<std::chrono::microseconds>(look_interval, std::min(list_.size(), crowd) * 50us);
    while (wake_.wait_until(lock, until, [&] { return stopping_ || hurried_; }) && !stopping_) {
      hurried_ = false;
      lock.unlock();
      guarded(each_look_);
      std::this_thread::sleep_for(hurry_interval);
      lock.lock();
    }
    if (stopping_) break;
    lock.unlock();
    guarded([this] {
      each_look_();
      const auto inodes = listed();
      for (const InodePtr& inode : inodes) look_at(inode, inodes.size() > crowd);
    });
    const auto now = std::chrono::steady_clock::now();
    if (now - last_tick >= 1s) {
      ledger_.tick(std::chrono::duration<double>(now - last_tick).count());
      last_tick = now;
    }
    lock.lock();
  }
}

}  // namespace limaquota
