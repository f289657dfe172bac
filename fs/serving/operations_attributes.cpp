// Operations on attributes: stat, chmod, chown, truncate, times, extended attributes, statfs.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "accounting/mutex.hpp"
#include "fs/serving/operations.hpp"

namespace limaquota::operations {
namespace {

void getattr(fuse_req_t req, fuse_ino_t id, fuse_file_info*) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) {
      const auto st = fs.virtual_tree.attributes(id);
      if (!st) return void(send_err(req, st.error().value));
      return void(send_attr(req, *st, 0));
    }
    with_inode(req, fs, id, [&](Inode& inode) {
      const auto st = fs.tree.entries.attributes(inode);
      if (!st) return void(send_err(req, st.error().value));
      send_attr(req, *st, attribute_seconds(inode));
    });
  });
}

Result<void> set_size(fuse_req_t req, Filesystem& fs, Inode& inode, off_t size, fuse_file_info* fi) {
  clear_set_id(req, fs, inode, context().kill_set_id);
  const KeepSetId keep(inode.may_have_set_id);
  Fd own;
  int fd = fi != nullptr ? descriptor_of(fi->fh) : -1;
  if (fd < 0) {
    auto opened = fs.backing.open(AT_FDCWD, ProcPath(inode.path.get()).c_str(), O_WRONLY | O_NONBLOCK);
    if (!opened) return opened.error();
    own = std::move(*opened);
    fd = own.get();
  }
  const auto done = fs.data(inode).truncate(inode, fd, static_cast<uint64_t>(size));
  if (done && inode.is_disk()) {
    const MutexLock lock(inode.mutex);
    fs.tree.accounts.read_header(inode.id, inode.path.get(), inode.size);
  }
  return done;
}

Result<void> set_times(Filesystem& fs, Inode& inode, const struct stat& attr, int to_set) {
  std::array<timespec, 2> times{timespec{0, UTIME_OMIT}, timespec{0, UTIME_OMIT}};
  if ((to_set & FUSE_SET_ATTR_ATIME_NOW) != 0) {
    times[0].tv_nsec = UTIME_NOW;
  } else if ((to_set & FUSE_SET_ATTR_ATIME) != 0) {
    times[0] = attr.st_atim;
  }
  if ((to_set & FUSE_SET_ATTR_MTIME_NOW) != 0) {
    times[1].tv_nsec = UTIME_NOW;
  } else if ((to_set & FUSE_SET_ATTR_MTIME) != 0) {
    times[1] = attr.st_mtim;
  }
  return fs.backing.sys().utimens(inode.path.get(), times.data());
}

Result<void> set_attributes(fuse_req_t req, Filesystem& fs, Inode& inode, const struct stat& attr, int to_set,
                            fuse_file_info* fi) {
  Sys& sys = fs.backing.sys();
  Result<void> done;
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) {
    // The kernel took away already what this caller may not set.
    const KeepSetId keep(true);
    if ((attr.st_mode & (S_ISUID | S_ISGID)) != 0) inode.may_have_set_id = true;
    done = sys.chmod(inode.path.get(), attr.st_mode & 07777);
  }
  if (done && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    const KeepSetId keep(fuse_req_ctx(req)->uid == 0);
    done =
        sys.chown(inode.path.get(), (to_set & FUSE_SET_ATTR_UID) != 0 ? attr.st_uid : static_cast<uid_t>(-1),
                  (to_set & FUSE_SET_ATTR_GID) != 0 ? attr.st_gid : static_cast<gid_t>(-1));
  }
  if (done && (to_set & FUSE_SET_ATTR_SIZE) != 0) done = set_size(req, fs, inode, attr.st_size, fi);
  constexpr int times =
      FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
  if (done && (to_set & times) != 0) done = set_times(fs, inode, attr, to_set);
  return done;
}

void setattr_virtual(fuse_req_t req, Filesystem& fs, fuse_ino_t id, const struct stat& attr, int to_set) {
  auto allowed = fs.virtual_tree.may_change(id);
  if (!allowed) return reply(req, allowed);
  const auto st = (to_set & FUSE_SET_ATTR_SIZE) != 0
                      ? fs.virtual_tree.set_size(id, static_cast<uint64_t>(attr.st_size))
                      : fs.virtual_tree.attributes(id);
  if (!st) return void(send_err(req, st.error().value));
  send_attr(req, *st, 0);
}

void setattr(fuse_req_t req, fuse_ino_t id, struct stat* attr, int to_set, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return setattr_virtual(req, fs, id, *attr, to_set);
    with_inode(req, fs, id, [&](Inode& inode) {
      const auto done = set_attributes(req, fs, inode, *attr, to_set, fi);
      if (!done) return reply(req, done);
      const auto st = fs.tree.entries.attributes(inode);
      if (!st) return void(send_err(req, st.error().value));
      send_attr(req, *st, attribute_seconds(inode));
    });
  });
}

void getxattr(fuse_req_t req, fuse_ino_t id, const char* name, size_t size) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_err(req, ENODATA));
    with_inode(req, fs, id, [&](Inode& inode) {
      std::vector<char> value(size);
      const auto got = fs.backing.sys().getxattr(inode.path.get(), name, value.data(), size);
      if (!got) return void(send_err(req, got.error().value));
      size == 0 ? send_xattr(req, *got) : send_buf(req, {value.data(), *got});
    });
  });
}

void listxattr(fuse_req_t req, fuse_ino_t id, size_t size) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(size == 0 ? send_xattr(req, 0) : send_buf(req, {}));
    with_inode(req, fs, id, [&](Inode& inode) {
      std::vector<char> list(size);
      const auto got = fs.backing.sys().listxattr(inode.path.get(), list.data(), size);
      if (!got) return void(send_err(req, got.error().value));
      size == 0 ? send_xattr(req, *got) : send_buf(req, {list.data(), *got});
    });
  });
}

bool owns_group(Filesystem& fs, Inode& inode, const Caller& caller) {
  const auto st = fs.backing.sys().fstat(inode.path.get());
  return st && in_group(caller, st->st_gid);
}

void setxattr(fuse_req_t req, fuse_ino_t id, const char* name, const char* value, size_t size, int flags) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_err(req, fs.virtual_tree.may_change(id) ? EOPNOTSUPP : EPERM));
    with_inode(req, fs, id, [&](Inode& inode) {
      // An access ACL sets mode bits, and set-gid goes where the caller is not in the group.
      const Caller caller = caller_of(req);
      const KeepSetId keep(inode.may_have_set_id && (caller.uid == 0 || owns_group(fs, inode, caller)));
      reply(req, fs.tree.attributes.set(replay(), inode, name, value, size, flags));
    });
  });
}

void removexattr(fuse_req_t req, fuse_ino_t id, const char* name) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_err(req, ENODATA));
    with_inode(req, fs, id,
               [&](Inode& inode) { reply(req, fs.tree.attributes.remove(replay(), inode, name)); });
  });
}

// Inside an account df shows its disk line and what may still be written.
void statfs(fuse_req_t req, fuse_ino_t id) {
  guarded(req, [&](Filesystem& fs) {
    auto host = fs.backing.sys().fstatvfs(fs.backing.root());
    if (!host) return void(send_err(req, host.error().value));
    const InodePtr inode = is_virtual(id) ? nullptr : fs.table.find(id);
    if (inode) {
      const Ledger::Room room = fs.ledger.room(inode->account(), fs.backing.free_bytes());
      if (!room.disk_line.is_unlimited()) {
        const uint64_t unit = host->f_frsize;
        const uint64_t line = room.disk_line.count() / unit;
        host->f_blocks = line;
        host->f_bfree = host->f_bavail = std::min<uint64_t>(host->f_blocks, room.writable.count() / unit);
      } else if (!room.writable.is_unlimited()) {
        host->f_bavail = std::min<uint64_t>(host->f_bavail, room.writable.count() / host->f_frsize);
      }
    }
    send_statfs(req, *host);
  });
}

}  // namespace

void add_attribute_operations(fuse_lowlevel_ops& table) {
  table.getattr = getattr;
  table.setattr = setattr;
  table.getxattr = getxattr;
  table.listxattr = listxattr;
  table.setxattr = setxattr;
  table.removexattr = removexattr;
  table.statfs = statfs;
}

}  // namespace limaquota::operations
