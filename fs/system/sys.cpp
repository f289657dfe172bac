#include "fs/system/sys.hpp"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace limaquota {
namespace {

constexpr int rwf_dontcache = 0x80;  // of linux/fs.h, which is older here

// Calls again while a signal cut the call short before it did anything.
template <class Call>
auto retried(Call call) {
  auto value = call();
  while (value < 0 && errno == EINTR) value = call();
  return value;
}

Result<void> done(int value) {
  if (value < 0) return Errno{errno};
  return {};
}

Result<size_t> counted(ssize_t value) {
  if (value < 0) return Errno{errno};
  return static_cast<size_t>(value);
}

}  // namespace

ProcPath::ProcPath(int fd) { std::snprintf(text_, sizeof text_, "/proc/self/fd/%d", fd); }

Result<Fd> Sys::openat(int dir, const char* name, int flags, mode_t mode) {
  const int fd = retried([&] { return ::openat(dir, name, flags | O_CLOEXEC, mode); });
  if (fd < 0) return Errno{errno};
  return Fd(fd);
}

Result<void> Sys::close(Fd fd) { return done(::close(fd.release())); }

Result<size_t> Sys::pread(int fd, void* buffer, size_t size, off_t offset, Caching caching) {
  static std::atomic<bool> can_read_once{true};
  if (caching == Caching::once && can_read_once) {
    const iovec vector{buffer, size};
    const ssize_t got = retried([&] { return ::preadv2(fd, &vector, 1, offset, rwf_dontcache); });
    if (got >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return counted(got);
    can_read_once = false;
  }
  return counted(retried([&] { return ::pread(fd, buffer, size, offset); }));
}

Result<size_t> Sys::pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  return counted(retried([&] { return ::pwrite(fd, buffer, size, offset); }));
}

Result<void> Sys::fallocate(int fd, int mode, off_t offset, off_t length) {
  return done(retried([&] { return ::fallocate(fd, mode, offset, length); }));
}

Result<void> Sys::ftruncate(int fd, off_t size) {
  return done(retried([&] { return ::ftruncate(fd, size); }));
}

Result<size_t> Sys::copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) {
  return counted(retried([&] {
    off64_t from = in_offset;
    off64_t to = out_offset;
    return ::copy_file_range(in, &from, out, &to, size, 0);
  }));
}

Result<off_t> Sys::lseek(int fd, off_t offset, int whence) {
  const off_t position = ::lseek(fd, offset, whence);
  if (position < 0) return Errno{errno};
  return position;
}

Result<void> Sys::fsync(int fd) {
  return done(retried([&] { return ::fsync(fd); }));
}
Result<void> Sys::fdatasync(int fd) {
  return done(retried([&] { return ::fdatasync(fd); }));
}
Result<void> Sys::syncfs(int fd) { return done(::syncfs(fd)); }

Result<void> Sys::write_back(int fd) {
  constexpr unsigned all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  return done(retried([&] { return ::sync_file_range(fd, 0, 0, all); }));
}

Result<struct stat> Sys::fstat(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) < 0) return Errno{errno};
  return st;
}

Result<struct stat> Sys::fstatat(int dir, const char* name, int flags) {
  struct stat st {};
  if (::fstatat(dir, name, &st, flags) < 0) return Errno{errno};
  return st;
}

Result<struct statvfs> Sys::fstatvfs(int fd) {
  struct statvfs st {};
  if (::fstatvfs(fd, &st) < 0) return Errno{errno};
  return st;
}

Result<struct statfs> Sys::fstatfs(int fd) {
  struct statfs st {};
  if (::fstatfs(fd, &st) < 0) return Errno{errno};
  return st;
}

Result<void> Sys::chmod(int fd, mode_t mode) { return done(::chmod(ProcPath(fd).c_str(), mode)); }

Result<void> Sys::chown(int fd, uid_t uid, gid_t gid) {
  return done(::fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

Result<void> Sys::utimens(int fd, const struct timespec times[2]) {
  return done(static_cast<int>(::syscall(SYS_utimensat, fd, "", times, AT_EMPTY_PATH)));
}

Result<size_t> Sys::getxattr(int fd, const char* name, void* value, size_t size) {
  return counted(::getxattr(ProcPath(fd).c_str(), name, value, size));
}

Result<size_t> Sys::listxattr(int fd, char* list, size_t size) {
  return counted(::listxattr(ProcPath(fd).c_str(), list, size));
}

Result<void> Sys::setxattr(int fd, const char* name, const void* value, size_t size, int flags) {
  return done(::setxattr(ProcPath(fd).c_str(), name, value, size, flags));
}

Result<void> Sys::removexattr(int fd, const char* name) {
  return done(::removexattr(ProcPath(fd).c_str(), name));
}

Result<void> Sys::mkdirat(int dir, const char* name, mode_t mode) { return done(::mkdirat(dir, name, mode)); }

Result<void> Sys::mknodat(int dir, const char* name, mode_t mode, dev_t device) {
  return done(::mknodat(dir, name, mode, device));
}

Result<void> Sys::symlinkat(const char* target, int dir, const char* name) {
  return done(::symlinkat(target, dir, name));
}

Result<void> Sys::linkat(int fd, int dir, const char* name) {
  return done(::linkat(AT_FDCWD, ProcPath(fd).c_str(), dir, name, AT_SYMLINK_FOLLOW));
}

Result<void> Sys::unlinkat(int dir, const char* name, int flags) {
  return done(::unlinkat(dir, name, flags));
}

Result<void> Sys::renameat2(int dir, const char* name, int new_dir, const char* new_name, unsigned flags) {
  return done(::renameat2(dir, name, new_dir, new_name, flags));
}

Result<std::string> Sys::readlink(int fd) {
  std::string target(PATH_MAX, '\0');
  const ssize_t size = ::readlinkat(fd, "", target.data(), target.size());
  if (size < 0) return Errno{errno};
  target.resize(static_cast<size_t>(size));
  return target;
}

Result<size_t> Sys::getdents(int fd, void* buffer, size_t size) {
  return counted(::syscall(SYS_getdents64, fd, buffer, size));
}

Result<std::vector<Extent>> Sys::extents(int fd, uint64_t offset, uint64_t length, size_t limit) {
  std::vector<char> memory(sizeof(fiemap) + limit * sizeof(fiemap_extent));
  auto* map = reinterpret_cast<fiemap*>(memory.data());
  map->fm_start = offset;
  map->fm_length = length;
  map->fm_extent_count = static_cast<uint32_t>(limit);
  if (retried([&] { return ::ioctl(fd, FS_IOC_FIEMAP, map); }) < 0)
    return Errno{errno == ENOTTY ? ENOTSUP : errno};
  std::vector<Extent> extents;
  extents.reserve(map->fm_mapped_extents);
  for (uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
    const fiemap_extent& extent = map->fm_extents[i];
    extents.push_back({extent.fe_logical, extent.fe_length, (extent.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0,
                       (extent.fe_flags & FIEMAP_EXTENT_SHARED) != 0});
  }
  return extents;
}

Result<uint64_t> Sys::count_extents(int fd, uint64_t offset) {
  fiemap request{};
  fiemap* const map = &request;
  map->fm_start = offset;
  map->fm_length = FIEMAP_MAX_OFFSET - offset;
  if (retried([&] { return ::ioctl(fd, FS_IOC_FIEMAP, map); }) < 0) {
    return Errno{errno == ENOTTY ? ENOTSUP : errno};
  }
  return uint64_t{map->fm_mapped_extents};
}

ExtentHints Sys::extent_hints(int fd) {
  fsxattr attributes{};
  if (::ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0) return {};
  ExtentHints hints;
  if ((attributes.fsx_xflags & FS_XFLAG_EXTSIZE) != 0) hints.extent_size = attributes.fsx_extsize;
  if ((attributes.fsx_xflags & FS_XFLAG_COWEXTSIZE) != 0) hints.cow_extent_size = attributes.fsx_cowextsize;
  hints.preallocated = (attributes.fsx_xflags & FS_XFLAG_PREALLOC) != 0;
  int flags = 0;
  if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) hints.has_extents = (flags & FS_EXTENT_FL) != 0;
  return hints;
}

namespace {
struct HandleBuffer {
  file_handle header;
  unsigned char bytes[MAX_HANDLE_SZ];
};
}  // namespace

std::string Sys::file_handle(int dir, const char* name) {
  HandleBuffer handle{};
  handle.header.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  const int flags = *name == '\0' ? AT_EMPTY_PATH : 0;
  if (::name_to_handle_at(dir, name, &handle.header, &mount_id, flags) == 0) {
    std::string text(reinterpret_cast<const char*>(&handle.header.handle_type),
                     sizeof handle.header.handle_type);
    text.append(reinterpret_cast<const char*>(handle.bytes), handle.header.handle_bytes);
    return text;
  }
  struct statx st {};
  if (::statx(dir, name, flags | AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) != 0) return {};
  return {reinterpret_cast<const char*>(&st.stx_btime), sizeof st.stx_btime};
}

Result<Fd> Sys::open_file_handle(int root, const std::string& handle) {
  HandleBuffer buffer{};
  const size_t type_bytes = sizeof buffer.header.handle_type;
  if (handle.size() <= type_bytes || handle.size() > type_bytes + MAX_HANDLE_SZ) return Errno{ESTALE};
  buffer.header.handle_bytes = static_cast<unsigned>(handle.size() - type_bytes);
  std::memcpy(&buffer.header.handle_type, handle.data(), type_bytes);
  std::memcpy(buffer.bytes, handle.data() + type_bytes, handle.size() - type_bytes);
  const int fd = ::open_by_handle_at(root, &buffer.header, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return Errno{errno};
  return Fd(fd);
}

}  // namespace limaquota
