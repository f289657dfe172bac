// Taking over from a worker that died: what the kernel knows and has open, by the descriptors that stayed.
#include <fcntl.h>

#include <algorithm>
#include <ctime>

#include "fs/handover.hpp"
#include "fs/tree.hpp"

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
InodePtr Tree::take_over_path(Fd path, uint64_t lookups, uint32_t account) {
  const auto st = backing_.sys().fstat(path.get());
  if (!st) {
    handover->descriptor(path.get()).set_use(DescriptorUse::passing);
    return nullptr;
  }
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  const std::string handle = backing_.sys().file_handle(path.get(), "");
  const bool gone = table_.find_charge(id) == nullptr;
  if (gone) {
    const auto known = ledger_.find(handover->account_name(account));
    const Child child{known.value_or(accounts_.shared()), Role::plain, false, false};
    MeteredIo::Changes changes;
    add_charge(id, child, "", path.get(), *st, &changes, handle);
    ledger_.apply(changes.data(), changes.size());
  }
  InodePtr inode = table_.take_over(id, std::move(path), lookups, [&](Inode& made) {
    made.generation = generation_of(handle);
    made.device = st->st_dev;
    made.type = st->st_mode & S_IFMT;
    made.size = static_cast<uint64_t>(st->st_size);
  });
  const std::lock_guard lock(inode->mutex);
  if ((st->st_mode & (S_ISUID | S_ISGID)) != 0) inode->may_have_set_id = true;
  inode->gone = gone;
  inode->linked_outside = gone && st->st_nlink > 0 && !S_ISDIR(st->st_mode);
  // How much may still come of the last writes nobody knows: the worst, until it is written back.
  const uint64_t blocks = static_cast<uint64_t>(st->st_blocks) * 512 / backing_.block();
  inode->extents_at_most = std::max(inode->extents_at_most, blocks + 1);
  if (S_ISREG(st->st_mode) && backing_.slack().leaf_capacity > 0 && blocks > 0 && changed_lately(*st)) {
    inode->unsettled = blocks;
    io_.observe(*inode);
    settler_.add(*inode);
    inode->dirty_since -= settled_at_once;
  }
  return inode;
}

void Tree::take_over_open(int fd) {
  Handover::Descriptor& descriptor = handover->descriptor(fd);
  auto path = backing_.sys().openat(AT_FDCWD, ProcPath(fd).c_str(), O_PATH, 0);
  if (!path) return;
  // The kernel knows what it has open: its inode is there as a rule.
  const auto st = backing_.sys().fstat(fd);
  InodePtr inode = st ? table_.find(table_.id_of(st->st_dev, st->st_ino)) : nullptr;
  if (!inode) inode = take_over_path(std::move(*path), 0, 0);
  if (!inode) return;
  const std::lock_guard lock(inode->open_mutex);
  ++inode->opens;
  inode->direct = descriptor.use() == DescriptorUse::direct_file;
  inode->cache_is_stale = true;
}

void Tree::never_known(int fd) {
  const auto st = backing_.sys().fstat(fd);
  if (const InodePtr inode = st ? table_.find(table_.id_of(st->st_dev, st->st_ino)) : nullptr) closed(inode);
}

void Tree::take_over(const std::vector<int>& descriptors) {
  const auto is_inode = [](int fd) { return handover->descriptor(fd).use() == DescriptorUse::inode; };
  std::vector<InodePtr> inodes;
  for (const int fd : descriptors) {
    if (!is_inode(fd)) continue;
    Handover::Descriptor& descriptor = handover->descriptor(fd);
    const uint64_t lookups = descriptor.lookups;
    const uint32_t account = descriptor.account;
    // Until it is in the table again it stays noted: this worker may die as well.
    if (InodePtr inode = take_over_path(Fd(fd), lookups, account)) inodes.push_back(std::move(inode));
  }
  for (const int fd : descriptors) {
    if (!is_inode(fd)) take_over_open(fd);
  }
  for (const InodePtr& inode : inodes) {
    {
      const std::lock_guard lock(inode->mutex);
      table_.mark_dying(*inode);
    }
    forget(inode->id, 0);
  }
  ask_next_ = std::chrono::steady_clock::now() + ask_interval;
}

// Unknown is an inode that the kernel twice does not know, while nobody looked it up.
void Tree::ask_for_taken_over() {
  const auto now = std::chrono::steady_clock::now();
  if (now < ask_next_) return;
  ask_next_ = now + ask_interval;
  std::vector<InodeTable::Doubtful> missed;
  {
    const std::lock_guard lock(kernel_mutex_);
    if (!kernel_.knows) return;
    for (const auto& inode : table_.doubtful()) {
      if (!kernel_.knows(inode.id)) missed.push_back(inode);
    }
    for (const auto& inode : unknown_) {
      if (table_.lookups(inode.id) == inode.lookups && !kernel_.knows(inode.id))
        forget(inode.id, inode.lookups);
    }
  }
  unknown_ = std::move(missed);
}

}  // namespace limaquota
