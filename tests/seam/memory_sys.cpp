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

struct MemorySys::Block {
  bool unwritten = false;
  bool shared = false;
};

struct MemorySys::Node {
  ino_t inode = 0;
  mode_t mode = 0;
  nlink_t links = 0;
  uint64_t size = 0;
  std::map<uint64_t, Block> blocks;
  uint64_t past_end = 0;  // blocks that were preallocated there, and that nobody asked for
  uint64_t copies = 0;    // and those beside copied ones
  std::set<uint64_t> copied_units;
  uint64_t leaves = 0;  // blocks of its metadata
  bool preallocated = false;
  std::string text;  // what it holds, where that is short
  std::map<std::string, NodePtr> children;

  uint64_t allocated() const { return blocks.size() + past_end + copies + leaves; }
};

MemoryRules MemoryRules::ext4() {
  MemoryRules rules;
  rules.magic = EXT4_SUPER_MAGIC;
  rules.leaf_extents = 340;
  rules.inode_extents = 4;
  return rules;
}

MemoryRules MemoryRules::xfs() {
  MemoryRules rules;
  rules.magic = 0x58465342;
  rules.leaf_extents = 251;
  rules.copied_blocks = 32;
  rules.preallocates = true;
  rules.shares = true;
  return rules;
}

MemoryRules MemoryRules::btrfs() {
  MemoryRules rules;
  rules.magic = BTRFS_SUPER_MAGIC;
  rules.shares = true;
  return rules;
}

MemoryRules MemoryRules::tmpfs() {
  MemoryRules rules;
  rules.magic = TMPFS_MAGIC;
  return rules;
}

MemorySys::MemorySys(const MemoryRules& rules)
    : rules_(rules), free_(rules.blocks), root_(std::make_shared<Node>()) {
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
  auto node = std::make_shared<Node>();
  node->inode = next_inode_++;
  node->mode = mode;
  node->links = S_ISDIR(mode) ? 2 : 1;
  parent.children[name] = node;
  return node;
}

bool MemorySys::take(uint64_t count) {
  if (free_ < count) return false;
  free_ -= count;
  return true;
}

uint64_t MemorySys::bytes_below(const std::string& path) const {
  std::set<const Node*> seen;
  const std::function<uint64_t(const Node&)> sum = [&](const Node& node) -> uint64_t {
    if (!seen.insert(&node).second) return 0;
    uint64_t bytes = node.allocated() * block;
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

std::string MemorySys::picture(int fd) const {
  const NodePtr node = node_of(fd);
  const uint64_t end = (node->size + block - 1) / block;
  const uint64_t last = node->blocks.empty() ? 0 : node->blocks.rbegin()->first + 1;
  std::string text;
  for (uint64_t i = 0; i < std::max(end, last); ++i) {
    if (i == end) text += '[';
    const auto found = node->blocks.find(i);
    text += found == node->blocks.end() ? '.'
            : found->second.shared      ? 's'
            : found->second.unwritten   ? 'u'
                                        : 'w';
  }
  if (last > end) text += ']';
  return text;
}

void MemorySys::draw(int fd, const std::string& picture) {
  const NodePtr node = node_of(fd);
  for (uint64_t i = 0; i < picture.size(); ++i) {
    drop(*node, i);
    if (picture[i] == '.') continue;
    (void)take(1);
    node->blocks[i] = {picture[i] == 'u', picture[i] == 's'};
  }
  node->size = picture.size() * block;
}

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
  if ((flags & O_TRUNC) != 0 && node->size > 0) {
    for (uint64_t i = node->blocks.empty() ? 0 : node->blocks.rbegin()->first + 1; i > 0; --i)
      drop(*node, i - 1);
    node->size = 0;
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
  if (from >= node->size) return size_t{0};
  const size_t count = std::min<size_t>(size, node->size - from);
  std::memset(buffer, 0, count);
  if (from < node->text.size())
    std::memcpy(buffer, node->text.data() + from, std::min(count, node->text.size() - from));
  return count;
}

// What it has beyond a file's end is its own, and goes when it likes.
void MemorySys::grow_past_end(Node& node, uint64_t new_end) {
  const uint64_t end = (new_end + block - 1) / block;
  free_ += node.past_end;
  node.past_end = 0;
  if (!rules_.preallocates) return;
  const uint64_t wanted = std::max<uint64_t>(16, end);
  if (take(wanted)) node.past_end = wanted;
}

bool MemorySys::write_block(Node& node, uint64_t index) {
  const auto found = node.blocks.find(index);
  if (found == node.blocks.end()) {
    if (!take(1)) return false;
    node.blocks[index] = {};
    return true;
  }
  // What was shared stays another file's. Copies are allocated in whole units; the next ones find theirs
  // there.
  if (found->second.shared) {
    if (node.copied_units.insert(index / rules_.copied_blocks).second) {
      if (!take(rules_.copied_blocks)) return false;
      node.copies += rules_.copied_blocks;
    }
    if (node.copies > 0) --node.copies;
  }
  found->second = {};
  return true;
}

Result<size_t> MemorySys::pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto from = static_cast<uint64_t>(offset);
  const uint64_t end = from + size;
  uint64_t written = 0;
  while (written < size) {
    const uint64_t here = from + written;
    if (!write_block(*node, here / block)) break;
    written += std::min(size - written, block - here % block);
  }
  if (written == 0 && size > 0) return Errno{ENOSPC};
  if (from + written > node->size) {
    node->size = from + written;
    grow_past_end(*node, node->size);
  }
  constexpr uint64_t longest_text = 65536;
  if (end <= longest_text) {
    if (node->text.size() < from + written) node->text.resize(from + written);
    std::memcpy(node->text.data() + from, buffer, written);
  }
  called("pwrite");
  return static_cast<size_t>(written);
}

void MemorySys::drop(Node& node, uint64_t index) {
  const auto found = node.blocks.find(index);
  if (found == node.blocks.end()) return;
  if (!found->second.shared) ++free_;
  node.blocks.erase(found);
}

Result<void> MemorySys::fallocate(int fd, int mode, off_t offset, off_t length) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto from = static_cast<uint64_t>(offset);
  const uint64_t end = from + static_cast<uint64_t>(length);
  const uint64_t whole_first = (from + block - 1) / block;
  const uint64_t whole_end = end / block;
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    if (from >= node->size) {
      free_ += node->past_end + node->copies;
      node->past_end = node->copies = 0;
      node->copied_units.clear();
    }
    for (auto at = node->blocks.lower_bound(whole_first);
         at != node->blocks.end() && at->first < whole_end;) {
      const uint64_t index = (at++)->first;
      drop(*node, index);
    }
    called("fallocate");
    return {};
  }
  for (uint64_t i = from / block; i < (end + block - 1) / block; ++i) {
    const auto found = node->blocks.find(i);
    if (found == node->blocks.end()) {
      if (!take(1)) return Errno{ENOSPC};
      node->blocks[i] = {true, false};
    } else if ((mode & FALLOC_FL_ZERO_RANGE) != 0 && i >= whole_first && i < whole_end &&
               !found->second.shared) {
      found->second.unwritten = true;
    }
  }
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0) node->size = std::max(node->size, end);
  if (end > node->size) node->preallocated = true;
  called("fallocate");
  return {};
}

Result<void> MemorySys::ftruncate(int fd, off_t size) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto wanted = static_cast<uint64_t>(size);
  if (wanted <= node->size) {
    const uint64_t end = (wanted + block - 1) / block;
    while (!node->blocks.empty() && node->blocks.rbegin()->first >= end)
      drop(*node, node->blocks.rbegin()->first);
    free_ += node->past_end + node->copies;
    node->past_end = node->copies = 0;
    node->copied_units.clear();
    node->preallocated = false;
    node->text.resize(std::min<uint64_t>(node->text.size(), wanted));
    if (node->blocks.empty()) {
      free_ += node->leaves;
      node->leaves = 0;
    }
    // Zeroing the rest of a shared block copies it.
    if (wanted % block != 0 && node->blocks.contains(wanted / block) && node->blocks[wanted / block].shared &&
        !write_block(*node, wanted / block))
      return Errno{ENOSPC};
  }
  node->size = wanted;
  called("ftruncate");
  return {};
}

Result<size_t> MemorySys::copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) {
  const NodePtr from = node_of(in);
  const NodePtr to = node_of(out);
  if (!from || !to) return Errno{EBADF};
  const auto source = static_cast<uint64_t>(in_offset);
  if (source >= from->size) return size_t{0};
  const size_t count = std::min<size_t>(size, from->size - source);
  const bool aligned = source % block == 0 && static_cast<uint64_t>(out_offset) % block == 0;
  if (!rules_.shares || !aligned) {
    const std::vector<char> data(count);
    return pwrite(out, data.data(), count, out_offset);
  }
  for (uint64_t i = 0; i < (count + block - 1) / block; ++i) {
    const uint64_t index = static_cast<uint64_t>(out_offset) / block + i;
    const auto original = from->blocks.find(source / block + i);
    drop(*to, index);
    if (original == from->blocks.end()) continue;
    original->second.shared = true;
    to->blocks[index] = original->second;
  }
  to->size = std::max(to->size, static_cast<uint64_t>(out_offset) + count);
  called("copy_file_range");
  return count;
}

Result<off_t> MemorySys::lseek(int, off_t, int) { return Errno{ENXIO}; }

std::vector<Extent> MemorySys::extents_of(const Node& node) const {
  std::vector<Extent> all;
  for (const auto& [index, one] : node.blocks) {
    const bool joins = !all.empty() && !rules_.scatters &&
                       all.back().offset + all.back().length == index * block &&
                       all.back().unwritten == one.unwritten && all.back().shared == one.shared;
    if (joins) {
      all.back().length += block;
    } else {
      all.push_back({index * block, block, one.unwritten, one.shared});
    }
  }
  if (node.past_end > 0)
    all.push_back({(node.size + block - 1) / block * block, node.past_end * block, true, false});
  return all;
}

// The extents get their metadata now, in leaves that are half full.
void MemorySys::write_back(Node& node) {
  if (rules_.leaf_extents == 0) return;
  const uint64_t extents = extents_of(node).size();
  const uint64_t half = rules_.leaf_extents / 2;
  const uint64_t needed = extents <= rules_.inode_extents ? 0 : (extents + half - 1) / half;
  if (needed > node.leaves && take(needed - node.leaves)) node.leaves = needed;
}

Result<void> MemorySys::write_back(int fd) {
  write_back(*node_of(fd));
  called("write_back");
  return {};
}

Result<void> MemorySys::fsync(int fd) { return write_back(fd); }
Result<void> MemorySys::fdatasync(int fd) { return write_back(fd); }

Result<void> MemorySys::syncfs(int) {
  const std::function<void(Node&)> all = [&](Node& node) {
    write_back(node);
    for (const auto& [name, child] : node.children) all(*child);
  };
  all(*root_);
  called("syncfs");
  return {};
}

struct stat MemorySys::stat_of(const Node& node) const {
  struct stat st {};
  st.st_dev = 1;
  st.st_ino = node.inode;
  st.st_mode = node.mode;
  st.st_nlink = node.links;
  st.st_size = static_cast<off_t>(node.size);
  st.st_blocks = static_cast<blkcnt_t>(node.allocated() * (block / 512));
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
  st.f_blocks = rules_.blocks;
  st.f_bfree = st.f_bavail = free_;
  return st;
}

Result<struct statfs> MemorySys::fstatfs(int) {
  struct statfs st {};
  st.f_type = rules_.magic;
  st.f_bsize = block;
  st.f_blocks = rules_.blocks;
  st.f_bfree = st.f_bavail = rules_.blocks - 1;  // odd: no bigalloc
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
  if (--found->second->links == 0) {
    const NodePtr node = found->second;
    while (!node->blocks.empty()) drop(*node, node->blocks.begin()->first);
    free_ += node->past_end + node->copies + node->leaves;
    node->past_end = node->copies = node->leaves = 0;
  }
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
  for (const Extent& extent : extents_of(*node)) {
    if (extent.offset + extent.length <= offset || touched.size() == limit) continue;
    if (extent.offset >= offset + length) break;
    touched.push_back(extent);
  }
  return touched;
}

Result<uint64_t> MemorySys::count_extents(int fd, uint64_t offset) {
  const NodePtr node = node_of(fd);
  if (!node) return Errno{EBADF};
  const auto all = extents_of(*node);
  return static_cast<uint64_t>(std::count_if(
      all.begin(), all.end(), [&](const Extent& extent) { return extent.offset + extent.length > offset; }));
}

ExtentHints MemorySys::extent_hints(int fd) {
  ExtentHints hints;
  const NodePtr node = node_of(fd);
  hints.has_extents = rules_.magic == EXT4_SUPER_MAGIC;
  hints.preallocated = node && node->preallocated;
  return hints;
}

std::string MemorySys::file_handle(int dir, const char* name) {
  const NodePtr node = *name == '\0' ? node_of(dir) : at(dir, name);
  return node ? "handle " + std::to_string(node->inode) : std::string();
}

}  // namespace limaquota
