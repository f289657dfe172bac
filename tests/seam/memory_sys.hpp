// A filesystem in memory behind the seam of system calls: it allocates late, preallocates and shares as told,
// so that a case which a kernel makes only now and then is made at every call, thousands of times a second.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/system/sys.hpp"

namespace limaquota {

// What it does. The name decides what the daemon expects of it (fs/backing/filesystems.hpp): a rule that does
// more than the daemon reckons with is how a test shows that it would be seen.
struct MemoryRules {
  long magic = 0;              // as statfs(2) tells it
  uint64_t blocks = 1 << 20;   // of its device
  uint64_t leaf_extents = 0;   // extents in a metadata block, at the worst half full; 0: they cost nothing
  uint64_t inode_extents = 0;  // that need no metadata block
  uint64_t copied_blocks = 1;  // that copying one shared block allocates
  bool preallocates = false;   // past the end of a file that grows: as much as it has, 16 blocks at least
  bool shares = false;         // copy_file_range
  bool scatters = false;       // no two blocks make one extent

  static MemoryRules ext4();
  static MemoryRules xfs();
  static MemoryRules btrfs();
  static MemoryRules tmpfs();
};

// Thread safety: none.
class MemorySys : public Sys {
 public:
  static constexpr uint64_t block = 4096;

  explicit MemorySys(const MemoryRules& rules);
  ~MemorySys() override;

  // The root directory, as the daemon has it.
  Fd open_root();
  // Called after every system call that may have changed something, with its name; it may throw, as a crash.
  std::function<void(const char* call)> after_call;
  // What du says of the tree below a path from the root ("" for all of it), each inode once.
  uint64_t bytes_below(const std::string& path) const;
  // One character a block: '.' a hole, 'u' unwritten, 'w' written, 's' shared; what lies past the end in
  // brackets.
  std::string picture(int fd) const;
  // Puts a file's blocks as such a picture has them, without brackets.
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
  struct Block;
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  NodePtr node_of(int fd) const;
  NodePtr at(int dir, const char* name) const;
  NodePtr make(Node& parent, const std::string& name, mode_t mode);
  Fd opened(const NodePtr& node);
  void called(const char* call);
  bool take(uint64_t count);
  void grow_past_end(Node& node, uint64_t new_end);
  bool write_block(Node& node, uint64_t index);
  void drop(Node& node, uint64_t index);
  std::vector<Extent> extents_of(const Node& node) const;
  void write_back(Node& node);
  struct stat stat_of(const Node& node) const;

  const MemoryRules rules_;
  uint64_t free_;
  ino_t next_inode_ = 2;
  uint64_t calls_ = 0;
  NodePtr root_;
  std::map<int, NodePtr>
      open_;  // by a descriptor of the process; one that was closed stays until it is used again
  std::map<int, size_t> listed_;  // of directories: the entries that were read
};

}  // namespace limaquota
