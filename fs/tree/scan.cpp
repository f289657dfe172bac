#include "fs/tree/scan.hpp"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/metering/extents.hpp"
#include "fs/system/log.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {

Result<void> Scan::run() {
  Sys& sys = backing_.sys();
  const auto root = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!root) return root.error();
  const auto st = sys.fstat(root->get());
  if (!st) return st.error();
  table_.set_root(st->st_dev, st->st_ino);
  Changes changes;
  charges_.add({root_node, root->get(), *st, sys.file_handle(root->get(), "")},
               {accounts_.shared(), Role::root, false, false}, "", changes);
  ledger_.apply(changes.data(), changes.size());
  if (const auto scanned = scan_directory({root->get(), Role::root, accounts_.shared()}); !scanned)
    return scanned;
  for (auto& [id, holders] : std::exchange(links_, {})) charges_.set_holders(id, std::move(holders));
  if (!accounts_.refresh() || !limit_files_.recount()) return Errno{EIO};
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

Result<void> Scan::scan_directory(const Directory& directory) {
  const auto names = read_names(backing_.sys(), directory.fd);
  if (!names) return names.error();
  for (const std::string& name : *names) {
    if (directory.role == Role::root && (name == usage_directory || name == quota_directory)) continue;
    if (const auto scanned = scan_entry(directory, name); !scanned) return scanned;
  }
  return {};
}

Result<void> Scan::scan_entry(const Directory& directory, const std::string& name) {
  Sys& sys = backing_.sys();
  const auto st = sys.fstatat(directory.fd, name.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return st.error().value == ENOENT ? Result<void>() : Result<void>(st.error());
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  const Child child = accounts_.child_of(directory.role, directory.account, name, st->st_mode);
  if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) (void)links_[id].add(child.account);
  if (!table_.has_charge(id)) charge(id, directory, name, *st, child);
  if (!S_ISDIR(st->st_mode)) return {};
  const auto below = sys.openat(directory.fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!below && below.error().value == EACCES) {
    log_warning("directory {} may not be read: what is in it is not counted", escape_name(name));
    return {};
  }
  if (!below) return below.error();
  return scan_directory({below->get(), child.role, child.account});
}

void Scan::charge(NodeId id, const Directory& directory, const std::string& name, const struct stat& st,
                  const Child& child) {
  Sys& sys = backing_.sys();
  Fd path;
  if (child.is_disk) {
    if (auto opened = sys.openat(directory.fd, name.c_str(), O_PATH | O_NOFOLLOW, 0))
      path = std::move(*opened);
  }
  Changes changes;
  charges_.add({id, path.get(), st, sys.file_handle(directory.fd, name.c_str())}, child, name.c_str(),
               changes);
  ledger_.apply(changes.data(), changes.size());
  if (child.is_disk) adopt(id, directory.fd, name, st);
}

// A disk with unwritten blocks keeps the worst that writing them may cost reserved, also over a remount.
void Scan::adopt(NodeId id, int dir, const std::string& name, const struct stat& st) {
  Sys& sys = backing_.sys();
  const auto fd = sys.openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
  auto path = sys.openat(dir, name.c_str(), O_PATH | O_NOFOLLOW, 0);
  if (!fd || !path) return;
  const InodePtr inode = table_.enter(id, std::move(*path), 0, "", [&](Inode& made) {
    entries_.describe(made, st, sys.file_handle(made.path.get(), ""));
  });
  {
    const MutexLock lock(inode->mutex);
    count_unwritten(backing_, *inode, fd->get());
    if (inode->unwritten > 0) {
      if (const auto extents = sys.count_extents(fd->get(), 0)) inode->extents_at_most = *extents;
      inode_charges_.observe(*inode);
      list_.add(*inode);
    }
  }
  ends_.forget(id, 1);
}

}  // namespace limaquota
