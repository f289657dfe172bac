#include "fs/tree/takeover.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <string>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {
namespace {

using namespace std::chrono_literals;
// Longer than this the kernel keeps nothing dirty (writeback after 30 s), so that nothing comes late.
constexpr time_t settled_after = 120;
// Makes it old enough for the settler to write it back in its next look, and be done.
constexpr auto settled_at_once = 1h;
// Between two questions about the same inode: replies under way have arrived by then.
constexpr auto ask_interval = 2s;

bool changed_lately(const struct stat& st) {
  const time_t now = std::time(nullptr);
  return st.st_ctim.tv_sec > now || now - st.st_ctim.tv_sec < settled_after;
}

}  // namespace

// Its charge is the scan's, or, where it has no name in the tree any more, that of the account it was in.
InodePtr Takeover::take_path(Fd path, uint64_t lookups, uint32_t account) {
  const auto st = backing_.sys().fstat(path.get());
  if (!st) {
    notes_.descriptors.of(path.get()).set_use(DescriptorUse::passing);
    return nullptr;
  }
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  const std::string handle = backing_.sys().file_handle(path.get(), "");
  const bool gone = !table_.has_charge(id);
  if (gone) {
    const auto known = ledger_.find(notes_.accounts.name(account));
    Changes changes;
    charges_.add({id, path.get(), *st, handle},
                 {known.value_or(accounts_.shared()), Role::plain, false, false}, "", changes);
    ledger_.apply(changes.data(), changes.size());
  }
  InodePtr inode = table_.take_over(id, std::move(path), lookups,
                                    [&](Inode& made) { entries_.describe(made, *st, handle); });
  const MutexLock lock(inode->mutex);
  if ((st->st_mode & (S_ISUID | S_ISGID)) != 0) inode->may_have_set_id = true;
  inode->gone = gone;
  inode->linked_outside = gone && st->st_nlink > 0 && !S_ISDIR(st->st_mode);
  // How much may still come of the last writes nobody knows: the worst, until it is written back.
  const uint64_t blocks = backing_.blocks_of(*st);
  inode->extents_at_most = std::max(inode->extents_at_most, blocks + 1);
  if (S_ISREG(st->st_mode) && backing_.rules().is_late() && blocks > 0 && changed_lately(*st)) {
    inode->unsettled = blocks;
    inode_charges_.observe(*inode);
    list_.add(*inode);
    inode->dirty_since -= settled_at_once;
  }
  return inode;
}

// Each must be counted: it will be closed.
Result<void> Takeover::take_open(int fd) {
  const auto st = backing_.sys().fstat(fd);
  if (!st) return st.error();
  // The kernel knows what it has open: its inode is there as a rule.
  InodePtr inode = table_.find(table_.id_of(st->st_dev, st->st_ino));
  if (!inode) {
    auto path = backing_.sys().openat(AT_FDCWD, ProcPath(fd).c_str(), O_PATH, 0);
    if (!path) return path.error();
    inode = take_path(std::move(*path), 0, 0);
    if (!inode) return Errno{EIO};
  }
  const MutexLock lock(inode->open_mutex);
  ++inode->opens;
  inode->direct = notes_.descriptors.of(fd).use() == DescriptorUse::direct_file;
  inode->cache_is_stale = true;
  return {};
}

void Takeover::never_known(int fd) {
  const auto st = backing_.sys().fstat(fd);
  if (const InodePtr inode = st ? table_.find(table_.id_of(st->st_dev, st->st_ino)) : nullptr)
    ends_.closed(inode);
}

Result<void> Takeover::run(const std::vector<int>& descriptors) {
  std::vector<InodePtr> inodes;
  std::vector<int> open;
  for (const int fd : descriptors) {
    const DescriptorNote& descriptor = notes_.descriptors.of(fd);
    if (descriptor.use() != DescriptorUse::inode) {
      open.push_back(fd);
      continue;
    }
    const uint64_t lookups = descriptor.lookups;
    const uint32_t account = descriptor.account;
    // Until it is in the table again it stays noted: this worker may die as well.
    if (InodePtr inode = take_path(Fd(fd), lookups, account)) inodes.push_back(std::move(inode));
  }
  for (const int fd : open) {
    if (const auto taken = take_open(fd); !taken) return taken;
  }
  for (const InodePtr& inode : inodes) {
    {
      const MutexLock lock(inode->mutex);
      table_.mark_dying(*inode);
      if (inode->gone && inode->opens == 0) list_.remove(*inode);
    }
    ends_.forget(inode->id, 0);
  }
  ask_next_ = std::chrono::steady_clock::now() + ask_interval;
  return {};
}

// Unknown is an inode that the kernel twice does not know, while nobody looked it up.
void Takeover::go_on() {
  const auto now = std::chrono::steady_clock::now();
  if (now < ask_next_) return;
  ask_next_ = now + ask_interval;
  kernel_.ask([&](const auto& knows) {
    std::vector<InodeTable::Doubtful> missed;
    for (const auto& inode : table_.doubtful()) {
      if (!knows(inode.id)) missed.push_back(inode);
    }
    for (const auto& inode : unknown_) {
      if (table_.lookups(inode.id) == inode.lookups && !knows(inode.id))
        ends_.forget(inode.id, inode.lookups);
    }
    unknown_ = std::move(missed);
  });
}

}  // namespace limaquota
