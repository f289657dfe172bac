#include "fs/texts/virtual_tree.hpp"

#include <fcntl.h>
#include <linux/fs.h>

#include <cerrno>
#include <ctime>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {
namespace {

// The part of a path below its tree: "" for the tree itself.
std::string_view below(std::string_view path) {
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
}

bool in_tree(std::string_view path, std::string_view tree) {
  return path == tree || (path.starts_with(tree) && path[tree.size()] == '/');
}

}  // namespace

VirtualTree::VirtualTree(UsageFiles& usage, QuotaFiles& quota, Notes& notes, uid_t uid, gid_t gid)
    : usage_(usage), quota_(quota), notes_(notes), uid_(uid), gid_(gid) {
  constexpr unsigned restart_shift = 40;
  next_handle_ = uint64_t{notes_.process.restarts} << restart_shift;
}

VirtualTree::Kind VirtualTree::kind(std::string_view path) const {
  const std::string_view rest = below(path);
  if (in_tree(path, usage_directory)) {
    if (UsageFiles::is_directory(rest)) return Kind::usage_dir;
    return usage_.is_file(rest) ? Kind::usage_file : Kind::none;
  }
  if (in_tree(path, quota_directory)) {
    if (QuotaFiles::is_directory(rest)) return Kind::quota_dir;
    return quota_.is_file(rest) ? Kind::quota_file : Kind::none;
  }
  return Kind::none;
}

// The same for each worker, so that a node which the kernel knows is found again: a hash of the path
// (FNV-1a), or what follows it where that is taken.
NodeId VirtualTree::id_of(const std::string& path) {
  const MutexLock lock(mutex_);
  if (const auto known = ids_.find(path); known != ids_.end()) return known->second;
  uint64_t hash = 14695981039346656037U;
  for (const char c : path) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  NodeId id = virtual_bit | (hash & (virtual_bit - 1));
  while (!paths_.try_emplace(id, path).second) id = virtual_bit | ((id + 1) & (virtual_bit - 1));
  ids_[path] = id;
  return id;
}

std::optional<std::string> VirtualTree::path_of(NodeId id) {
  for (const bool look : {true, false}) {
    {
      const MutexLock lock(mutex_);
      const auto found = paths_.find(id);
      if (found != paths_.end()) return found->second;
    }
    // Of the worker before: it is one of the names there are.
    if (look && notes_.process.takes_over()) know_all();
  }
  return std::nullopt;
}

void VirtualTree::know_all() {
  for (const std::string_view tree : {usage_directory, quota_directory}) {
    const bool usage = tree == usage_directory;
    for (const std::string_view below_it : {std::string_view(), disks_directory}) {
      std::string directory(tree);
      if (!below_it.empty()) directory.append("/").append(below_it);
      (void)id_of(directory);
      directory.append("/");
      for (const std::string& name : usage ? usage_.names(below_it) : quota_.names(below_it))
        (void)id_of(std::string(directory).append(name));
    }
  }
}

Result<std::string> VirtualTree::child_path(NodeId parent, std::string_view name) {
  if (parent == root_node) return std::string(name);
  const auto path = path_of(parent);
  if (!path) return Errno{ESTALE};
  return *path + "/" + std::string(name);
}

struct stat VirtualTree::stat_of(NodeId id, const std::string& path, Kind kind) const {
  struct stat st {};
  const bool directory = kind == Kind::usage_dir || kind == Kind::quota_dir;
  const bool writable = kind == Kind::quota_dir || kind == Kind::quota_file;
  if (writable) {
    // What du counts and an editor compares are those of the file that is kept.
    if (const auto kept = quota_.backing_stat(below(path))) {
      st.st_blocks = kept->st_blocks;
      st.st_mtim = kept->st_mtim;
      st.st_ctim = kept->st_ctim;
      st.st_atim = kept->st_atim;
    }
  } else {
    ::clock_gettime(CLOCK_REALTIME, &st.st_mtim);
    st.st_ctim = st.st_atim = st.st_mtim;
  }
  st.st_ino = id;
  st.st_mode = (directory ? S_IFDIR | 0555U : S_IFREG | 0444U) | (writable ? 0200U : 0U);
  st.st_nlink = directory ? 2 : 1;
  st.st_uid = uid_;
  st.st_gid = gid_;
  st.st_blksize = 4096;
  if (kind == Kind::quota_file) st.st_size = static_cast<off_t>(quota_.text(below(path)).size());
  return st;
}

Result<VirtualTree::Node> VirtualTree::lookup(NodeId parent, std::string_view name) {
  const auto path = child_path(parent, name);
  if (!path) return path.error();
  const Kind what = kind(*path);
  if (what == Kind::none) return Errno{ENOENT};
  const NodeId id = id_of(*path);
  return Node{id, stat_of(id, *path, what)};
}

Result<struct stat> VirtualTree::attributes(NodeId id) {
  const auto path = path_of(id);
  if (!path) return Errno{ESTALE};
  const Kind what = kind(*path);
  if (what == Kind::none) return Errno{ENOENT};
  return stat_of(id, *path, what);
}

Result<void> VirtualTree::may_change(NodeId id) {
  const auto path = path_of(id);
  if (!path) return Errno{ESTALE};
  if (in_tree(*path, usage_directory)) return Errno{EPERM};
  return {};
}

Result<struct stat> VirtualTree::set_size(NodeId id, uint64_t size) {
  const auto path = path_of(id);
  if (!path) return Errno{ESTALE};
  if (kind(*path) != Kind::quota_file) return Errno{EPERM};
  const auto set = quota_.set_size(below(*path), size);
  if (!set) return set.error();
  return attributes(id);
}

Result<std::vector<VirtualTree::Child>> VirtualTree::list(NodeId id) {
  const auto path = path_of(id);
  if (!path) return Errno{ESTALE};
  const Kind what = kind(*path);
  if (what != Kind::usage_dir && what != Kind::quota_dir) return Errno{ENOTDIR};
  const auto names = what == Kind::usage_dir ? usage_.names(below(*path)) : quota_.names(below(*path));
  std::vector<Child> children;
  for (const std::string& name : names) {
    const std::string child = *path + "/" + name;
    const Kind child_kind = kind(child);
    if (child_kind == Kind::none) continue;
    children.push_back({name, id_of(child), child_kind == Kind::usage_dir || child_kind == Kind::quota_dir});
  }
  return children;
}

uint64_t VirtualTree::handle_for_request(Replay& replay, Opened opened) {
  if (const auto earlier = replay.earlier<OpensText>()) return earlier->handle;
  uint64_t handle = 0;
  {
    const MutexLock lock(mutex_);
    next_handle_ += 2;
    handle = next_handle_ | (opened == Opened::to_write ? 1 : 0);
  }
  replay.intend(OpensText{handle});
  return handle;
}

Result<uint64_t> VirtualTree::open(Replay& replay, NodeId id, int flags) {
  const auto path = path_of(id);
  if (!path) return Errno{ESTALE};
  const Kind what = kind(*path);
  if (what == Kind::none) return Errno{ENOENT};
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  if (what == Kind::usage_file && writes) return Errno{EACCES};
  if (what != Kind::usage_file && what != Kind::quota_file) return Errno{EISDIR};
  return open_file(*path, flags, handle_for_request(replay, writes ? Opened::to_write : Opened::to_read));
}

Result<uint64_t> VirtualTree::open_file(const std::string& path, int flags, uint64_t handle) {
  if (writes(handle)) quota_.open_for_writing(below(path), handle);
  if ((flags & O_TRUNC) != 0) {
    const auto set = quota_.set_size(below(path), 0);
    if (!set) return set.error();
  }
  return handle;
}

Result<std::pair<VirtualTree::Node, uint64_t>> VirtualTree::create(Replay& replay, NodeId parent,
                                                                   std::string_view name, int flags) {
  const auto path = child_path(parent, name);
  if (!path) return path.error();
  if (!in_tree(*path, quota_directory)) return Errno{EPERM};
  const Kind what = kind(*path);
  if (what != Kind::none) {
    if ((flags & O_EXCL) != 0 && !replay.earlier<OpensText>()) return Errno{EEXIST};
    if (what != Kind::quota_file) return Errno{EISDIR};
  }
  const uint64_t handle = handle_for_request(replay, Opened::to_write);
  if (what == Kind::none) {
    if (const auto created = quota_.create(below(*path)); !created) return created.error();
  }
  const NodeId id = id_of(*path);
  const auto opened = open_file(*path, flags, handle);
  if (!opened) return opened.error();
  return std::pair{Node{id, stat_of(id, *path, Kind::quota_file)}, *opened};
}

Result<std::string> VirtualTree::read(NodeId node, uint64_t handle, size_t size, uint64_t offset) {
  const auto path = path_of(node);
  if (!path) return Errno{ESTALE};
  if (!in_tree(*path, quota_directory)) return read_usage(*path, handle, size, offset);
  const std::string text = quota_.text(below(*path));
  return offset < text.size() ? text.substr(offset, size) : std::string();
}

// A read from the beginning finds the figures of that moment; what follows belongs to the same moment.
Result<std::string> VirtualTree::read_usage(const std::string& path, uint64_t handle, size_t size,
                                            uint64_t offset) {
  if (offset > 0) {
    const MutexLock lock(mutex_);
    if (const auto found = texts_.find(handle); found != texts_.end())
      return found->second.part(size, offset);
  }
  auto fresh = usage_.text(below(path));
  if (!fresh) return Errno{ENOENT};
  KeptText text(handle, std::move(*fresh), notes_);
  std::string part = text.part(size, offset);
  const MutexLock lock(mutex_);
  texts_.insert_or_assign(handle, std::move(text));
  return part;
}

void VirtualTree::take_over_text(int descriptor) {
  const MutexLock lock(mutex_);
  texts_.insert_or_assign(KeptText::handle_of(descriptor, notes_), KeptText(descriptor, notes_));
}

Result<size_t> VirtualTree::write(NodeId node, uint64_t handle, std::string_view data, uint64_t offset,
                                  uint64_t owner) {
  if (!writes(handle)) return Errno{EBADF};
  const auto path = path_of(node);
  if (!path) return Errno{ESTALE};
  return quota_.write(below(*path), data, offset, owner);
}

Result<void> VirtualTree::flush(NodeId node, uint64_t handle, uint64_t owner) {
  if (!writes(handle)) return {};
  const auto path = path_of(node);
  return path ? quota_.flush(below(*path), owner) : Result<void>();
}

void VirtualTree::release(NodeId node, uint64_t handle) {
  if (writes(handle)) {
    if (const auto path = path_of(node)) quota_.closed(below(*path), handle);
    return;
  }
  const MutexLock lock(mutex_);
  texts_.erase(handle);
}

Result<void> VirtualTree::unlink(Replay& replay, NodeId parent, std::string_view name) {
  const bool before = replay.earlier<ChangesText>().has_value();
  const auto path = child_path(parent, name);
  if (!path) return path.error();
  const Kind what = kind(*path);
  if (what == Kind::none) return before ? Result<void>() : Errno{ENOENT};  // done before
  if (what != Kind::quota_file) return Errno{EPERM};
  replay.intend(ChangesText{});
  return quota_.remove(below(*path));
}

Result<void> VirtualTree::rename(Replay& replay, NodeId parent, std::string_view name, NodeId new_parent,
                                 std::string_view new_name, unsigned flags) {
  const bool before = replay.earlier<ChangesText>().has_value();
  const auto from = child_path(parent, name);
  const auto to = child_path(new_parent, new_name);
  if (!from || !to) return Errno{ESTALE};
  if (!in_tree(*from, quota_directory) || !in_tree(*to, quota_directory)) return Errno{EPERM};
  if ((flags & ~RENAME_NOREPLACE) != 0) return Errno{EINVAL};
  const Kind what = kind(*from);
  if (what == Kind::none) {
    return before && kind(*to) == Kind::quota_file ? Result<void>() : Errno{ENOENT};
  }
  if (what != Kind::quota_file || kind(*to) == Kind::quota_dir) return Errno{EPERM};
  replay.intend(ChangesText{});
  const auto renamed = quota_.rename(below(*from), below(*to), flags);
  if (!renamed) return renamed;
  // The node goes with its name, as the kernel moves its own.
  const MutexLock lock(mutex_);
  if (const auto old = ids_.find(*to); old != ids_.end()) {
    paths_.erase(old->second);
    ids_.erase(old);
  }
  if (const auto node = ids_.find(*from); node != ids_.end()) {
    const NodeId id = node->second;
    ids_.erase(node);
    ids_[*to] = id;
    paths_[id] = *to;
  }
  return {};
}

}  // namespace limaquota
