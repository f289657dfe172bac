#include "fs/metering/settling.hpp"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <thread>

#include "fs/system/caller.hpp"

namespace limaquota {
namespace {

// For an inode that another thread settles.
constexpr int most_waited_ms = 1000;

class BeingSettled {
 public:
  explicit BeingSettled(Inode& inode) : inode_(inode) { inode_.being_settled = true; }
  BeingSettled(const BeingSettled&) = delete;
  BeingSettled& operator=(const BeingSettled&) = delete;
  ~BeingSettled() { inode_.being_settled = false; }

 private:
  Inode& inode_;
};

}  // namespace

void Settling::settle(Inode& inode, Preallocation preallocation) {
  if (!S_ISREG(inode.type) || inode.dead) return;
  const BeingSettled being(inode);
  // A descriptor of our own: a write error stays to be told by the callers' own fsync.
  Sys& sys = backing_.sys();
  const ProcPath path(inode.path.get());
  auto fd = sys.openat(AT_FDCWD, path.c_str(), O_RDWR | O_NONBLOCK, 0);
  if (!fd) fd = sys.openat(AT_FDCWD, path.c_str(), O_RDONLY | O_NONBLOCK, 0);
  // A file that even its owner may not open is written back with all others.
  if (!(fd ? sys.write_back(fd->get()).operator bool() : fd.error().value == EACCES && backing_.sync())) {
    inode.map = AllocationMap();  // the filesystem may have dropped what it could not write
    charges_.observe(inode);
    return;
  }
  inode.hints_known = false;  // an ext4 file gets its extents when it outgrows its inode
  if (fd) needs_.read_hints(inode, fd->get());
  const bool has_preallocated = backing_.rules().preallocates() && !inode.preallocated_past_end;
  if (fd && preallocation == Preallocation::goes && has_preallocated) {
    const uint64_t end = round_up(Bytes(inode.size), Bytes(backing_.block())).count();
    const auto past_end = sys.count_extents(fd->get(), end);
    if (past_end && *past_end > 0) drop_preallocation(inode, fd->get());
  }
  inode.dirty_since = std::chrono::steady_clock::now();
  if (inode.unsettled > 0 || late_.is_guessed(inode)) {
    const auto extents = fd ? sys.count_extents(fd->get(), 0) : Result<uint64_t>(fd.error());
    inode.extents_at_most = extents ? *extents : inode.extents_at_most + inode.unsettled;
    inode.extents_counted = extents.operator bool();
    inode.unsettled = 0;
    ++inode.settled;
  }
  charges_.observe(inode);
}

// Punching drops it; truncating to the present size would zero the rest of the last block first, which may be
// shared. Nobody asked for either: times and set-id bits stay.
void Settling::drop_preallocation(Inode& inode, int fd) {
  Sys& sys = backing_.sys();
  const auto before = sys.fstat(fd);
  if (!before) return;
  const KeepSetId keep(inode.may_have_set_id);
  const off_t end = static_cast<off_t>(
      round_up(Bytes(static_cast<uint64_t>(before->st_size)), Bytes(backing_.block())).count());
  constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (!sys.fallocate(fd, punch, end, std::numeric_limits<off_t>::max() - end)) return;
  const timespec times[2] = {{0, UTIME_OMIT}, before->st_mtim};
  (void)!sys.utimens(inode.path.get(), times);
}

template <class IsMeant>
bool Settling::settle_listed(IsMeant is_meant) {
  using namespace std::chrono_literals;
  bool any = false;
  for (const InodePtr& inode : list_.all()) {
    if (!is_meant(*inode)) continue;
    if (!inode->mutex.try_lock()) {
      // What another one gives back is given back for us, too. It waits for the disk alone.
      for (int waited = 0; inode->being_settled && waited < most_waited_ms; ++waited) {
        std::this_thread::sleep_for(1ms);
        any = true;
      }
      continue;
    }
    const MutexLock lock(inode->mutex, std::adopt_lock);
    if (inode->dead || inode->unsettled == 0 || inode->slack == Bytes(0)) continue;
    const Bytes before = inode->slack;
    settle(*inode, Preallocation::stays);
    any = any || inode->slack < before;
  }
  return any;
}

bool Settling::settle_accounts(const AccountIds& accounts) {
  AccountIds payers;
  for (const AccountId account : accounts) payers.push_back(ledger_.payer(account));
  return settle_listed([&](const Inode& inode) {
    return std::find(payers.begin(), payers.end(), ledger_.payer(inode.account())) != payers.end();
  });
}

bool Settling::settle_all() {
  return settle_listed([](const Inode&) { return true; });
}

}  // namespace limaquota
