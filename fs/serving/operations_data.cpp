// Operations on what files hold.
#include <fcntl.h>

#include <cerrno>
#include <vector>

#include "accounting/image_header.hpp"
#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/serving/operations.hpp"

namespace limaquota::operations {
namespace {

// What the kernel does itself, or what must not reach the backing descriptor: O_DIRECT would demand alignment
// of our buffers, O_APPEND would ignore the offset that the kernel gives.
constexpr int kept_by_kernel = O_APPEND | O_DIRECT | O_NOFOLLOW | O_TRUNC | O_CREAT | O_EXCL | O_NOCTTY;

int backing_fd(const fuse_file_info* fi) { return descriptor_of(fi->fh); }

void open(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) {
      const auto handle = fs.virtual_tree.open(replay(), id, fi->flags);
      if (!handle) return void(send_err(req, handle.error().value));
      fi->fh = *handle;
      fi->direct_io = 1;
      if (send_open(req, *fi, 0) == -ENOENT) fs.virtual_tree.release(id, fi->fh);
      return;
    }
    with_inode(req, fs, id, [&](Inode& inode) {
      const ProcPath path(inode.path.get());
      const int flags = (fi->flags & ~kept_by_kernel) | fs.open_flags;
      auto fd = fs.backing.open(AT_FDCWD, path.c_str(), flags);
      if (!fd && fd.error().value == EPERM) fd = fs.backing.open(AT_FDCWD, path.c_str(), flags & ~O_NOATIME);
      if (!fd) return void(send_err(req, fd.error().value));
      if ((fi->flags & O_TRUNC) != 0) {
        clear_set_id(req, fs, inode, context().kill_set_id);
        const KeepSetId keep(inode.may_have_set_id);
        const auto truncated = fs.data(inode).truncate(inode, fd->get(), 0);
        if (!truncated) return reply(req, truncated);
        if (inode.is_disk()) fs.tree.accounts.read_header(id, fd->get(), 0);
      }
      const uint32_t reply_flags = opened(fs, inode, std::move(*fd), fi);
      if (send_open(req, *fi, reply_flags) != -ENOENT) return;
      (void)close_handle(fs, fi->fh);
      if (const InodePtr pointer = fs.table.find(id)) fs.tree.ends.closed(pointer);
    });
  });
}

void release(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) {
      fs.virtual_tree.release(id, fi->fh);
    } else {
      const bool was_open = close_handle(fs, fi->fh);
      if (const InodePtr inode = was_open ? fs.table.find(id) : nullptr) {
        const bool yaml = inode->is_yaml() && (fi->flags & O_ACCMODE) != O_RDONLY;
        const AccountId account = inode->account();
        fs.tree.ends.closed(inode);
        if (yaml) fs.tree.accounts.changed(Role::vm, account, yaml_name);
      }
    }
    send_err(req, 0);
  });
}

// Memory for the data of a reply, this thread's own.
char* reply_space(size_t size) {
  if (const auto space = context().reply_space(); space.size() >= size) return space.data();
  thread_local std::vector<char> buffer;
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

void read(fuse_req_t req, fuse_ino_t id, size_t size, off_t offset, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) {
      const auto text = fs.virtual_tree.read(id, fi->fh, size, static_cast<uint64_t>(offset));
      if (!text) return void(send_err(req, text.error().value));
      return void(send_buf(req, *text));
    }
    char* to = reply_space(size);
    const auto got =
        fs.backing.sys().pread(backing_fd(fi), to, size, offset,
                               (fi->fh & read_once) != 0 ? Sys::Caching::once : Sys::Caching::usual);
    if (!got) return void(send_err(req, got.error().value));
    send_buf(req, {to, *got});
  });
}

void write(fuse_req_t req, fuse_ino_t id, const char* data, size_t size, off_t offset, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    const uint64_t at = static_cast<uint64_t>(offset);
    if (is_virtual(id)) {
      const auto written = fs.virtual_tree.write(id, fi->fh, {data, size}, at, fi->lock_owner);
      if (!written) return void(send_err(req, written.error().value));
      return void(send_write(req, *written));
    }
    with_inode(req, fs, id, [&](Inode& inode) {
      Result<size_t> written = size_t{0};
      {
        clear_set_id(req, fs, inode, context().kill_set_id);
        const KeepSetId keep(inode.may_have_set_id);
        written = fs.data(inode).write(inode, backing_fd(fi), data, size, at);
      }
      if (!written) return void(send_err(req, written.error().value));
      if (inode.is_disk() && at < image_header_bytes) {
        const MutexLock lock(inode.mutex);
        fs.tree.accounts.read_header(id, inode.path.get(), inode.size);
      }
      send_write(req, *written);
    });
  });
}

void flush(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    reply(req, is_virtual(id) ? fs.virtual_tree.flush(id, fi->fh, fi->lock_owner) : Result<void>());
  });
}

void fsync(fuse_req_t req, fuse_ino_t id, int data_only, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return reply(req, {});
    with_inode(req, fs, id, [&](Inode& inode) {
      reply(req, fs.data(inode).sync(inode, backing_fd(fi), synced(data_only)));
    });
  });
}

void fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t offset, off_t length, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_err(req, EOPNOTSUPP));
    with_inode(req, fs, id, [&](Inode& inode) {
      Result<void> done;
      {
        clear_set_id(req, fs, inode, fuse_req_ctx(req)->uid != 0);
        const KeepSetId keep(inode.may_have_set_id);
        done = fs.data(inode).fallocate(inode, backing_fd(fi), mode, static_cast<uint64_t>(offset),
                                        static_cast<uint64_t>(length));
      }
      reply(req, done);
    });
  });
}

void copy_file_range(fuse_req_t req, fuse_ino_t in_id, off_t in_offset, fuse_file_info* in_fi,
                     fuse_ino_t out_id, off_t out_offset, fuse_file_info* out_fi, size_t size, int) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(in_id) || is_virtual(out_id)) return void(send_err(req, EXDEV));
    with_inode(req, fs, in_id, [&](Inode& in) {
      with_inode(req, fs, out_id, [&](Inode& out) {
        Result<size_t> copied = size_t{0};
        {
          clear_set_id(req, fs, out, fuse_req_ctx(req)->uid != 0);
          const KeepSetId keep(out.may_have_set_id);
          copied = fs.data(out).copy(in, backing_fd(in_fi), static_cast<uint64_t>(in_offset), out,
                                     backing_fd(out_fi), static_cast<uint64_t>(out_offset), size);
        }
        if (!copied) return void(send_err(req, copied.error().value));
        if (out.is_disk()) {
          const MutexLock lock(out.mutex);
          fs.tree.accounts.read_header(out_id, out.path.get(), out.size);
        }
        send_write(req, *copied);
      });
    });
  });
}

void lseek(fuse_req_t req, fuse_ino_t id, off_t offset, int whence, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_err(req, EINVAL));
    const auto position = fs.backing.sys().lseek(backing_fd(fi), offset, whence);
    if (!position) return void(send_err(req, position.error().value));
    send_lseek(req, *position);
  });
}

}  // namespace

void add_data_operations(fuse_lowlevel_ops& table) {
  table.open = open;
  table.release = release;
  table.read = read;
  table.write = write;
  table.flush = flush;
  table.fsync = fsync;
  table.fallocate = fallocate;
  table.copy_file_range = copy_file_range;
  table.lseek = lseek;
}

}  // namespace limaquota::operations
