// The scan at mount: charges every inode of the tree, each once in each account that has a name of it.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "accounting/escape.hpp"
#include "fs/system/log.hpp"
#include "fs/system/read_names.hpp"
#include "fs/tree/tree.hpp"

namespace limaquota {

// Inodes with several links: where their names are.
struct Tree::Links {
  std::unordered_map<NodeId, std::vector<Holder>> names;
};

Result<void> Tree::scan_entry(int dir, Role role, AccountId account, const std::string& name, Links& links) {
  Sys& sys = backing_.sys();
  const auto st = sys.fstatat(dir, name.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return st.error().value == ENOENT ? Result<void>() : Result<void>(st.error());
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  const Child child = child_of(role, account, name, st->st_mode);
  if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) {
    auto& holders = links.names[id];
    const auto found = std::find_if(holders.begin(), holders.end(),
                                    [&](const Holder& h) { return h.account == child.account; });
    if (found != holders.end()) {
      ++found->names;
    } else {
      holders.push_back({child.account, 1});
    }
  }
  if (table_.find_charge(id) == nullptr) {
    MeteredIo::Changes changes;
    Fd path;
    if (child.is_disk) {
      if (auto opened = sys.openat(dir, name.c_str(), O_PATH | O_NOFOLLOW, 0)) path = std::move(*opened);
    }
    add_charge(id, child, name.c_str(), path.get(), *st, &changes, sys.file_handle(dir, name.c_str()));
    ledger_.apply(changes.data(), changes.size());
    if (child.is_disk) adopt(id, dir, name, *st);
  }
  if (!S_ISDIR(st->st_mode)) return {};
  const auto below = sys.openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!below && below.error().value == EACCES) {
    log_warning("directory {} may not be read: what is in it is not counted", escape_name(name));
    return {};
  }
  if (!below) return below.error();
  return scan_directory(below->get(), child.role, child.account, links);
}

// A disk with unwritten blocks keeps the worst that writing them may cost reserved, also over a remount.
void Tree::adopt(NodeId id, int dir, const std::string& name, const struct stat& st) {
  Sys& sys = backing_.sys();
  const auto fd = sys.openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
  auto path = sys.openat(dir, name.c_str(), O_PATH | O_NOFOLLOW, 0);
  if (!fd || !path) return;
  const InodePtr inode = table_.enter(id, std::move(*path), 0, "", [&](Inode& made) {
    describe(made, st, sys.file_handle(made.path.get(), ""));
  });
  {
    const std::lock_guard lock(inode->mutex);
    io_.adopt_unwritten(*inode, fd->get());
    if (inode->unwritten > 0) {
      if (const auto extents = sys.count_extents(fd->get(), 0)) inode->extents_at_most = *extents;
      io_.observe(*inode);
      settler_.add(*inode);
    }
  }
  forget(id, 1);
}

Result<void> Tree::scan_directory(int dir, Role role, AccountId account, Links& links) {
  const auto names = read_names(backing_.sys(), dir);
  if (!names) return names.error();
  for (const std::string& name : *names) {
    if (role == Role::root && (name == usage_directory || name == quota_directory)) continue;
    if (const auto scanned = scan_entry(dir, role, account, name, links); !scanned) return scanned;
  }
  return {};
}

Result<void> Tree::scan() {
  Sys& sys = backing_.sys();
  const auto root = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!root) return root.error();
  const auto st = sys.fstat(root->get());
  if (!st) return st.error();
  table_.set_root(st->st_dev, st->st_ino);
  MeteredIo::Changes changes;
  add_charge(root_node, {accounts_.shared(), Role::root, false, false}, "", root->get(), *st, &changes);
  ledger_.apply(changes.data(), changes.size());
  Links links;
  const auto scanned = scan_directory(root->get(), Role::root, accounts_.shared(), links);
  if (!scanned) return scanned;
  for (auto& [id, holders] : links.names) {
    Charge* charge = table_.find_charge(id);
    if (charge == nullptr) continue;
    for (const Holder& holder : holders) {
      if (holder.account == charge->account) continue;
      const Change change{holder.account, Bytes(0), charge->bytes, Bytes(0), Bytes(0), 0};
      ledger_.apply(&change, 1);
    }
    charge->holders = std::make_unique<std::vector<Holder>>(std::move(holders));
  }
  if (!accounts_.refresh()) return Errno{EIO};
  recharge_limit_files();
  if (limit_files_unknown_) return Errno{EIO};
  // The root is never forgotten.
  auto path = sys.openat(root->get(), ".", O_PATH | O_DIRECTORY, 0);
  if (!path) return path.error();
  table_.enter(root_node, std::move(*path), 0, "", [&](Inode& inode) {
    inode.generation = 0;
    inode.device = st->st_dev;
    inode.type = S_IFDIR;
  });
  return {};
}

// What du says of a directory and all in it; nothing where something cannot be looked at. What has several
// names counts once: `linked` are those that were seen.
std::optional<Bytes> Tree::bytes_below(int dir, const char* name, std::set<ino_t>& linked) const {
  Sys& sys = backing_.sys();
  const auto st = sys.fstatat(dir, name, AT_SYMLINK_NOFOLLOW);
  if (!st) return st.error().value == ENOENT ? std::optional(Bytes(0)) : std::nullopt;
  Bytes bytes = Bytes::of_st_blocks(st->st_blocks);
  if (!S_ISDIR(st->st_mode)) {
    const bool is_known = st->st_nlink > 1 && !linked.insert(st->st_ino).second;
    return is_known ? Bytes(0) : bytes;
  }
  const auto below = sys.openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  const auto names = below ? read_names(sys, below->get()) : Result<std::vector<std::string>>(below.error());
  if (!names) return std::nullopt;
  for (const std::string& child : *names) {
    const auto more = bytes_below(below->get(), child.c_str(), linked);
    if (!more) return std::nullopt;
    bytes += *more;
  }
  return bytes;
}

// The directory of the limit files and all in it counts in `_shared`, as du counts it, though nothing limits
// it.
void Tree::recharge_limit_files() {
  const std::lock_guard lock(limit_files_mutex_);
  std::set<ino_t> linked;
  const auto quota = bytes_below(backing_.root(), std::string(quota_directory).c_str(), linked);
  const auto usage = bytes_below(backing_.root(), std::string(usage_directory).c_str(), linked);
  limit_files_unknown_ = !quota || !usage;
  if (limit_files_unknown_) return;
  const Bytes bytes = *quota + *usage;
  const Change change{accounts_.shared(), limit_files_bytes_, bytes, Bytes(0), Bytes(0), 0};
  ledger_.apply(&change, 1);
  limit_files_bytes_ = bytes;
  // The home directory itself may have grown by a name.
  if (const InodePtr root = table_.find(root_node)) {
    const std::lock_guard root_lock(root->mutex);
    io_.observe(*root);
  }
}

}  // namespace limaquota
