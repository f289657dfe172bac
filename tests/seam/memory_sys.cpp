#include "tests/seam/memory_sys.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

namespace limaquota {

struct MemorySys::Node {
  explicit Node(MemoryDisk& disk) : file(disk) {}

  ino_t inode = 0;
  mode_t mode = 0;
  nlink_t links = 0;
  MemoryFile file;
  std::string text;  // what it holds, where that is short
  std::map<std::string, NodePtr> children;
};

MemorySys::MemorySys(const MemoryRules& rules) : disk_(rules), root_(std::make_shared<Node>(disk_)) {
  root_->inode = 1;
  root_->mode = S_IFDIR | 0755;
  root_->links = 2;
}

MemorySys::~MemorySys() = default;

Fd MemorySys::open_root() { return opened(root_); }

void MemorySys::called(const char* call) {
  ++calls_;
  if (after_call) after_call(call);
}

// A real descriptor stands for each, so that its number is nobody else's.
Fd MemorySys::opened(const NodePtr& node) {
  Fd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  open_[fd.get()] = node;
  listed_.erase(fd.get());
  return fd;
}

MemorySys::NodePtr MemorySys::node_of(int fd) const {
  const auto found = open_.find(fd);
  return found == open_.end() ? nullptr : found->second;
}

MemorySys::NodePtr MemorySys::at(int dir, const char* name) const {
  constexpr std::string_view proc = "/proc/self/fd/";
  const std::string_view path = name;
  if (path.starts_with(proc)) return node_of(std::atoi(name + proc.size()));
  NodePtr node = node_of(dir);
  for (size_t at = 0; node && at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string part(path.substr(at, end - at));
    at = end + 1;
    if (part == ".") continue;
    const auto child = node->children.find(part);
    node = child == node->children.end() ? nullptr : child->second;
  }
  return node;
}

MemorySys::NodePtr MemorySys::make(Node& parent, const std::string& name, mode_t mode) {
  auto node = std::make_shared<Node>(disk_);
  node->inode = next_inode_++;
  node->mode = mode;
  node->links = S_ISDIR(mode) ? 2 : 1;
  parent.children[name] = node;
  return node;
}

uint64_t MemorySys::bytes_below(const std::string& path) const {
  std::set<const Node*> seen;
  const std::function<uint64_t(const Node&)> sum = [&](const Node& node) -> uint64_t {
    if (!seen.insert(&node).second) return 0;
    uint64_t bytes = node.file.allocated() * block;
    for (const auto& [name, child] : node.children) bytes += sum(*child);
    return bytes;
  };
  NodePtr node = root_;
  if (!path.empty()) {
    const auto found = root_->children.find(path);
    if (found == root_->children.end()) return 0;
    node = found->second;
  }
  return sum(*node);
}

std::string MemorySys::picture(int fd) const { return node_of(fd)->file.picture(); }

void MemorySys::draw(int fd, const std::string& picture) { node_of(fd)->file.draw(picture); }

Result<Fd> MemorySys::openat(int dir, const char* name, int flags, mode_t mode) {
  NodePtr node = at(dir, name);
  if (node && (flags & O_EXCL) != 0) return Errno{EEXIST};
  if (!node && (flags & O_CREAT) == 0) return Errno{ENOENT};
  if (node && (flags & O_DIRECTORY) != 0 && !S_ISDIR(node->mode)) return Errno{ENOTDIR};
  if (!node) {
    const NodePtr parent = node_of(dir);
    if (!parent) return Errno{EBADF};
    node = make(*parent, name, S_IFREG | mode);
  }
  if ((flags & O_TRUNC) != 0 && node->file.size() > 0) {
    node->file.empty();
    node->text.clear();
  }
  Fd fd = opened(node);
  called("openat");
  return fd;
}

Result<void> MemorySys::close(Fd) { return {}; }

Result<size_t> MemorySys::pread(int fd, void* buffer, size_t size, off_t offset, Caching) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto from = static_cast<uint64_t>(offset);
  if (from >= node->file.size()) return size_t{0};
  const size_t count = std::min<size_t>(size, node->file.size() - from);
  std::memset(buffer, 0, count);
  if (from < node->text.size())
    std::memcpy(buffer, node->text.data() + from, std::min(count, node->text.size() - from));
  return count;
}

Result<size_t> MemorySys::pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto from = static_cast<uint64_t>(offset);
  const uint64_t end = from + size;
  const uint64_t written = node->file.write({from, size});
  if (written == 0 && size > 0) return Errno{ENOSPC};
  constexpr uint64_t longest_text = 65536;
  if (end <= longest_text) {
    if (node->text.size() < from + written) node->text.resize(from + written);
    std::memcpy(node->text.data() + from, buffer, written);
  }
  called("pwrite");
  return static_cast<size_t>(written);
}

Result<void> MemorySys::fallocate(int fd, int mode, off_t offset, off_t length) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const ByteRange range{static_cast<uint64_t>(offset), static_cast<uint64_t>(length)};
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    node->file.punch(range);
  } else if (!node->file.allocate(mode, range)) {
    return Errno{ENOSPC};
  }
  called("fallocate");
  return {};
}

Result<void> MemorySys::ftruncate(int fd, off_t size) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto wanted = static_cast<uint64_t>(size);
  if (wanted <= node->file.size()) node->text.resize(std::min<uint64_t>(node->text.size(), wanted));
  if (!node->file.truncate(wanted)) return Errno{ENOSPC};
  called("ftruncate");
  return {};
}

Result<size_t> MemorySys::copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) {
  const NodePtr from = node_of(in);
  const NodePtr to = node_of(out);
  if (!from || !to) return Errno{EBADF};
  const auto source = static_cast<uint64_t>(in_offset);
  if (source >= from->file.size()) return size_t{0};
  const size_t count = std::min<size_t>(size, from->file.size() - source);
  const bool aligned = source % block == 0 && static_cast<uint64_t>(out_offset) % block == 0;
  if (!disk_.rules.shares || !aligned) {
    const std::vector<char> data(count);
    return pwrite(out, data.data(), count, out_offset);
  }
  to->file.share_from(from->file, source, {static_cast<uint64_t>(out_offset), count});
  called("copy_file_range");
  return count;
}

Result<off_t> MemorySys::lseek(int, off_t, int) { return Errno{ENXIO}; }

Result<void> MemorySys::write_back(int fd) {
  node_of(fd)->file.write_back();
  called("write_back");
  return {};
}

Result<void> MemorySys::fsync(int fd) { return write_back(fd); }
Result<void> MemorySys::fdatasync(int fd) { return write_back(fd); }

Result<void> MemorySys::syncfs(int) {
  const std::function<void(Node&)> all = [&](Node& node) {
    node.file.write_back();
    for (const auto& [name, child] : node.children) all(*child);
  };
  all(*root_);
  called("syncfs");
  return {};
}

struct stat MemorySys::stat_of(const Node& node) {
  struct stat st {};
  st.st_dev = 1;
  st.st_ino = node.inode;
  st.st_mode = node.mode;
  st.st_nlink = node.links;
  st.st_size = static_cast<off_t>(node.file.size());
  st.st_blocks = static_cast<blkcnt_t>(node.file.allocated() * (block / 512));
  st.st_blksize = block;
  return st;
}

Result<struct stat> MemorySys::fstat(int fd) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  return stat_of(*node);
}

Result<struct stat> MemorySys::fstatat(int dir, const char* name, int) {
  const NodePtr node = at(dir, name);
  if (!node) return Errno{ENOENT};
  return stat_of(*node);
}

Result<struct statvfs> MemorySys::fstatvfs(int) {
  struct statvfs st {};
  st.f_bsize = st.f_frsize = block;
  st.f_blocks = disk_.rules.blocks;
  st.f_bfree = st.f_bavail = disk_.free;
  return st;
}

Result<struct statfs> MemorySys::fstatfs(int) {
  struct statfs st {};
  st.f_type = disk_.rules.magic;
  st.f_bsize = block;
  st.f_blocks = disk_.rules.blocks;
  st.f_bfree = st.f_bavail = disk_.rules.blocks - 1;  // odd: no bigalloc
  return st;
}

Result<void> MemorySys::utimens(int, const struct timespec*) { return {}; }

Result<void> MemorySys::mkdirat(int dir, const char* name, mode_t mode) {
  const NodePtr parent = node_of(dir);
  if (!parent) return Errno{EBADF};
  if (parent->children.contains(name)) return Errno{EEXIST};
  (void)make(*parent, name, S_IFDIR | mode);
  called("mkdirat");
  return {};
}

Result<void> MemorySys::linkat(int fd, int dir, const char* name) {
  const NodePtr node = node_of(fd);
  const NodePtr parent = node_of(dir);
  if (!node || !parent) return Errno{EBADF};
  if (!parent->children.try_emplace(name, node).second) return Errno{EEXIST};
  ++node->links;
  called("linkat");
  return {};
}

Result<void> MemorySys::unlinkat(int dir, const char* name, int) {
  const NodePtr parent = node_of(dir);
  if (!parent) return Errno{EBADF};
  const auto found = parent->children.find(name);
  if (found == parent->children.end()) return Errno{ENOENT};
  if (--found->second->links == 0) found->second->file.give_all_back();
  parent->children.erase(found);
  called("unlinkat");
  return {};
}

Result<void> MemorySys::renameat2(int dir, const char* name, int new_dir, const char* new_name,
                                  unsigned flags) {
  if (flags != 0) return Errno{EINVAL};
  const NodePtr parent = node_of(dir);
  const NodePtr new_parent = node_of(new_dir);
  if (!parent || !new_parent) return Errno{EBADF};
  const auto found = parent->children.find(name);
  if (found == parent->children.end()) return Errno{ENOENT};
  const NodePtr node = found->second;
  const auto target = new_parent->children.find(new_name);
  if (target != new_parent->children.end() && target->second == node) return {};
  if (target != new_parent->children.end()) --target->second->links;
  parent->children.erase(found);
  new_parent->children[new_name] = node;
  called("renameat2");
  return {};
}

Result<size_t> MemorySys::getdents(int fd, void* buffer, size_t size) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  size_t used = 0;
  size_t skipped = listed_[fd];
  for (const auto& [name, child] : node->children) {
    if (skipped > 0) {
      --skipped;
      continue;
    }
    const size_t bytes = (offsetof(dirent64, d_name) + name.size() + 1 + 7) / 8 * 8;
    if (used + bytes > size) break;
    auto* entry = reinterpret_cast<dirent64*>(static_cast<char*>(buffer) + used);
    entry->d_ino = child->inode;
    entry->d_reclen = static_cast<unsigned short>(bytes);
    entry->d_type = S_ISDIR(child->mode) ? DT_DIR : DT_REG;
    std::memcpy(entry->d_name, name.c_str(), name.size() + 1);
    used += bytes;
    ++listed_[fd];
  }
  return used;
}

Result<std::vector<Extent>> MemorySys::extents(int fd, uint64_t offset, uint64_t length, size_t limit) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  std::vector<Extent> touched;
  for (const Extent& extent : node->file.extents()) {
    if (extent.offset + extent.length <= offset || touched.size() == limit) continue;
    if (extent.offset >= offset + length) break;
    touched.push_back(extent);
  }
  return touched;
}

Result<uint64_t> MemorySys::count_extents(int fd, uint64_t offset) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto all = node->file.extents();
  return static_cast<uint64_t>(std::count_if(
      all.begin(), all.end(), [&](const Extent& extent) { return extent.offset + extent.length > offset; }));
}

ExtentHints MemorySys::extent_hints(int fd) {
  ExtentHints hints;
  const NodePtr node = node_of(fd);
  hints.has_extents = disk_.rules.magic == EXT4_SUPER_MAGIC;
  hints.preallocated = node && node->file.is_preallocated();
  return hints;
}

std::string MemorySys::file_handle(int dir, const char* name) {
  const NodePtr node = *name == '\0' ? node_of(dir) : at(dir, name);
  return node ? "handle " + std::to_string(node->inode) : std::string();
}

}  // namespace limaquota
