// A filesystem in memory behind the seam of system calls: names and descriptors; what its files allocate is
// in memory_file.hpp. It allocates late, preallocates and shares as told, so that a case which a kernel makes
// only now and then is made at every call, thousands of times a second.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/system/sys.hpp"
#include "tests/seam/memory_file.hpp"

namespace limaquota {

// Thread safety: none.
class MemorySys : public Sys {
 public:
  static constexpr uint64_t block = MemoryFile::block;

  explicit MemorySys(const MemoryRules& rules);
  ~MemorySys() override;

  // The root directory, as the daemon has it.
  Fd open_root();
  // Called after every system call that may have changed something, with its name; it may throw, as a crash.
  std::function<void(const char* call)> after_call;
  // What du says of the tree below a path from the root ("" for all of it), each inode once.
  uint64_t bytes_below(const std::string& path) const;
  // As MemoryFile has them.
  std::string picture(int fd) const;
  void draw(int fd, const std::string& picture);
  uint64_t calls() const { return calls_; }

  Result<Fd> openat(int dir, const char* name, int flags, mode_t mode) override;
  Result<void> close(Fd fd) override;
  Result<size_t> pread(int fd, void* buffer, size_t size, off_t offset, Caching caching) override;
  Result<size_t> pwrite(int fd, const void* buffer, size_t size, off_t offset) override;
  Result<void> fallocate(int fd, int mode, off_t offset, off_t length) override;
  Result<void> ftruncate(int fd, off_t size) override;
  Result<size_t> copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) override;
  Result<off_t> lseek(int fd, off_t offset, int whence) override;
  Result<void> fsync(int fd) override;
  Result<void> fdatasync(int fd) override;
  Result<void> syncfs(int fd) override;
  Result<void> write_back(int fd) override;
  Result<struct stat> fstat(int fd) override;
  Result<struct stat> fstatat(int dir, const char* name, int flags) override;
  Result<struct statvfs> fstatvfs(int fd) override;
  Result<struct statfs> fstatfs(int fd) override;
  Result<void> utimens(int fd, const struct timespec times[2]) override;
  Result<void> mkdirat(int dir, const char* name, mode_t mode) override;
  Result<void> linkat(int fd, int dir, const char* name) override;
  Result<void> unlinkat(int dir, const char* name, int flags) override;
  Result<void> renameat2(int dir, const char* name, int new_dir, const char* new_name,
                         unsigned flags) override;
  Result<size_t> getdents(int fd, void* buffer, size_t size) override;
  Result<std::vector<Extent>> extents(int fd, uint64_t offset, uint64_t length, size_t limit) override;
  Result<uint64_t> count_extents(int fd, uint64_t offset) override;
  ExtentHints extent_hints(int fd) override;
  std::string file_handle(int dir, const char* name) override;

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  NodePtr node_of(int fd) const;
  NodePtr at(int dir, const char* name) const;
  NodePtr make(Node& parent, const std::string& name, mode_t mode);
  Fd opened(const NodePtr& node);
  void called(const char* call);
  static struct stat stat_of(const Node& node);

  MemoryDisk disk_;
  ino_t next_inode_ = 2;
  uint64_t calls_ = 0;
  NodePtr root_;
  std::map<int, NodePtr>
      open_;  // by a descriptor of the process; one that was closed stays until it is used again
  std::map<int, size_t> listed_;  // of directories: the entries that were read
};

}  // namespace limaquota
