#include "fs/serving/operations.hpp"

#include <linux/fuse.h>

#include <utility>

#include "accounting/mutex.hpp"
#include "fs/serving/request_kind.hpp"

namespace limaquota {
namespace operations {
namespace {
// How long the kernel may keep names and attributes: every change passes through it, but for blocks that come
// late.
constexpr double cache_seconds = 1.0;
}  // namespace

Caller caller_of(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return {context->uid, context->gid, context->pid, context->umask};
}

double attribute_seconds(const Inode& inode) {
  return inode.listed && !S_ISDIR(inode.type) ? 0 : cache_seconds;
}

fuse_entry_param entry_param(const Entry& entry) {
  fuse_entry_param param{};
  param.ino = entry.inode->id;
  param.generation = entry.inode->generation;
  param.attr = entry.st;
  param.attr_timeout = attribute_seconds(*entry.inode);
  param.entry_timeout = cache_seconds;
  return param;
}

fuse_entry_param entry_param(const VirtualTree::Node& node) {
  fuse_entry_param param{};
  param.ino = node.id;
  param.attr = node.st;
  return param;
}

void reply_entry(fuse_req_t req, Filesystem& fs, const Result<Entry>& entry) {
  if (!entry) {
    send_err(req, entry.error().value);
    return;
  }
  const fuse_entry_param param = entry_param(*entry);
  // A caller that was interrupted never learns of the inode.
  if (send_entry(req, param) == -ENOENT) fs.tree.ends.forget(entry->inode->id, 1);
}

// As on any filesystem, set-uid goes, and set-gid where the group may execute or the caller is not in it. The
// backing filesystem would judge by the daemon's groups, so the change itself is made with the bits kept
// (KeepSetId).
void clear_set_id(fuse_req_t req, Filesystem& fs, Inode& inode, bool kill) {
  if (!kill || !inode.may_have_set_id) return;
  const auto st = fs.backing.sys().fstat(inode.path.get());
  if (!st || !S_ISREG(st->st_mode)) return;
  mode_t mode = st->st_mode & 07777 & ~static_cast<mode_t>(S_ISUID);
  if ((mode & S_ISGID) != 0 && ((mode & S_IXGRP) != 0 || !in_group(caller_of(req), st->st_gid))) {
    mode &= ~static_cast<mode_t>(S_ISGID);
  }
  if (mode == (st->st_mode & 07777)) return;
  const KeepSetId keep(true);
  (void)!fs.backing.sys().chmod(inode.path.get(), mode);
}

// Direct I/O writes at twice the speed, and leaves one copy in memory, the backing filesystem's; the page
// cache reads again at memory's speed. So a disk that is only read is read through the page cache, and one
// that is written is open for direct I/O. Never both at once: a page read while a direct write is under way
// would stay.
uint32_t opened(Filesystem& fs, Inode& inode, Fd fd, fuse_file_info* fi) {
  const bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;
  {
    const MutexLock lock(inode.open_mutex);
    if (inode.opens++ == 0) {
      inode.direct = inode.is_disk() && writes;
      fs.choose_data(inode);
    }
    if (inode.direct && writes) inode.cache_is_stale = true;
    fi->direct_io = inode.direct;
    fi->keep_cache = !inode.direct && !std::exchange(inode.cache_is_stale, false);
  }
  const bool cached_disk = inode.is_disk() && !fi->direct_io;
  const DescriptorUse use = fi->direct_io ? DescriptorUse::direct_file : DescriptorUse::file;
  fi->fh = handle_of(fd.release(), use, fs.notes, replay()) | (cached_disk ? read_once : 0);
  // Several direct writes within a file may be under way at once, as they take turns here; closing needs no
  // FLUSH.
  return FOPEN_NOFLUSH | (fi->direct_io ? FOPEN_PARALLEL_DIRECT_WRITES : 0U);
}

bool close_handle(Filesystem& fs, uint64_t handle) {
  if (!give_back_handle(handle & ~read_once, fs.notes)) return false;
  (void)!fs.backing.sys().close(Fd(descriptor_of(handle)));
  return true;
}

namespace {

void init(void*, fuse_conn_info* conn) {
  const unsigned wanted = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK | FUSE_CAP_EXPORT_SUPPORT |
                          FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_ASYNC_READ |
                          FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_AUTO_INVAL_DATA;
  conn->want |= conn->capable & wanted;
  // Refusals must come at the write, and splicing lost to copying (bench/README.md). After an asynchronous
  // direct write the kernel leaves what its page cache holds of the range: another open would read the old
  // bytes.
  conn->want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ |
                                       FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_FLOCK_LOCKS |
                                       FUSE_CAP_POSIX_LOCKS | FUSE_CAP_ASYNC_DIO);
#ifdef FUSE_CAP_OVER_IO_URING
  // From libfuse 3.18 on its own queues, for which an environment variable is enough; ours are
  // fs/serving/uring.hpp.
  conn->want &= ~static_cast<unsigned>(FUSE_CAP_OVER_IO_URING);
#endif
  conn->max_write = largest_payload;
  conn->max_background = 64;
}

}  // namespace
}  // namespace operations

fuse_lowlevel_ops operation_table() {
  fuse_lowlevel_ops table{};
  table.init = operations::init;
  operations::add_name_operations(table);
  operations::add_data_operations(table);
  operations::add_directory_operations(table);
  operations::add_attribute_operations(table);
  return table;
}

}  // namespace limaquota
