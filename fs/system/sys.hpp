// The one seam for system calls on the backing tree, so that tests can inject EIO, ENOSPC, short
// transfers and EINTR at any of them. Everything that touches the backing filesystem goes through here.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/vfs.h>

#include <string>
#include <vector>

#include "accounting/allocation_map.hpp"
#include "accounting/result.hpp"
#include "fs/system/fd.hpp"

struct statx;

namespace limaquota {

// One extent as FIEMAP tells it: bytes, and whether it is unwritten or shared.
struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool unwritten = false;
  bool shared = false;
};

// What FS_IOC_FSGETXATTR and FS_IOC_GETFLAGS say of allocation: 0 where nothing is set.
struct ExtentHints {
  uint64_t extent_size = 0;
  uint64_t cow_extent_size = 0;
  bool preallocated = false;  // fallocate put blocks past the end, which XFS keeps
  bool has_extents = false;   // ext4: it maps its blocks by extents
};

// Each function is the system call of its name with errors as values. EINTR is retried by the functions that
// cannot have done part of their work. Thread safety: all may be called from any thread.
class Sys {
 public:
  virtual ~Sys() = default;

  // --- descriptors: the one place where a backing descriptor is opened ---
  virtual Result<Fd> openat(int dir, const char* name, int flags, mode_t mode);
  virtual Result<void> close(Fd fd);

  // --- data ---
  // once: what is read is kept elsewhere, so that the page cache need not keep it, where the filesystem can
  // do without (RWF_DONTCACHE, from Linux 6.14 on).
  enum class Caching : uint8_t { usual, once };
  virtual Result<size_t> pread(int fd, void* buffer, size_t size, off_t offset, Caching caching);
  virtual Result<size_t> pwrite(int fd, const void* buffer, size_t size, off_t offset);
  virtual Result<void> fallocate(int fd, int mode, off_t offset, off_t length);
  virtual Result<void> ftruncate(int fd, off_t size);
  virtual Result<size_t> copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size);
  virtual Result<off_t> lseek(int fd, off_t offset, int whence);
  virtual Result<void> fsync(int fd);
  virtual Result<void> fdatasync(int fd);
  virtual Result<void> syncfs(int fd);
  virtual Result<void> write_back(int fd);  // sync_file_range of the whole file, waiting

  // --- attributes ---
  virtual Result<struct stat> fstat(int fd);  // also of an O_PATH descriptor
  virtual Result<struct stat> fstatat(int dir, const char* name, int flags);
  virtual Result<struct statvfs> fstatvfs(int fd);
  virtual Result<struct statfs> fstatfs(int fd);
  virtual Result<void> chmod(int fd, mode_t mode);  // fd may be O_PATH, as for all below
  virtual Result<void> chown(int fd, uid_t uid, gid_t gid);
  virtual Result<void> utimens(int fd, const struct timespec times[2]);
  virtual Result<size_t> getxattr(int fd, const char* name, void* value, size_t size);
  virtual Result<size_t> listxattr(int fd, char* list, size_t size);
  virtual Result<void> setxattr(int fd, const char* name, const void* value, size_t size, int flags);
  virtual Result<void> removexattr(int fd, const char* name);

  // --- names: the one place where a namespace operation is carried out ---
  virtual Result<void> mkdirat(int dir, const char* name, mode_t mode);
  virtual Result<void> mknodat(int dir, const char* name, mode_t mode, dev_t device);
  virtual Result<void> symlinkat(const char* target, int dir, const char* name);
  virtual Result<void> linkat(int fd, int dir, const char* name);
  virtual Result<void> unlinkat(int dir, const char* name, int flags);
  virtual Result<void> renameat2(int dir, const char* name, int new_dir, const char* new_name,
                                 unsigned flags);
  virtual Result<std::string> readlink(int fd);
  virtual Result<size_t> getdents(int fd, void* buffer, size_t size);

  // --- extents ---
  // Extents of [offset, offset + length), at most as many as `limit`; ENOTSUP where there is no FIEMAP.
  virtual Result<std::vector<Extent>> extents(int fd, uint64_t offset, uint64_t length, size_t limit);
  virtual Result<uint64_t> count_extents(int fd, uint64_t offset);  // from offset to the end, also beyond EOF
  virtual ExtentHints extent_hints(int fd);

  // --- file handles --- opaque bytes that stand for an inode, and for no later one with its number
  // Of `name` in `dir`, or of `dir` itself where the name is empty. Where the filesystem gives out no
  // handles, its birth time, which cannot be opened.
  virtual std::string file_handle(int dir, const char* name);
  virtual Result<Fd> open_file_handle(int root, const std::string& handle);  // O_PATH; root only
};

// "/proc/self/fd/N": the path that leads to whatever an O_PATH descriptor stands for.
class ProcPath {
 public:
  explicit ProcPath(int fd);
  const char* c_str() const { return text_; }

 private:
  char text_[32];
};

}  // namespace limaquota
