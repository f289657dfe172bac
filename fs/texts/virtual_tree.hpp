// The two virtual trees, `.usage` and `.quota`, as the kernel sees them: nodes, attributes, directories, open
// files. What is in the files is decided by UsageFiles and QuotaFiles.
#pragma once

#include <sys/stat.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "accounting/mutex.hpp"
#include "accounting/result.hpp"
#include "fs/handover/kept_text.hpp"
#include "fs/handover/notes.hpp"
#include "fs/handover/replay.hpp"
#include "fs/system/node_id.hpp"
#include "fs/texts/quota_files.hpp"
#include "fs/texts/usage_files.hpp"

namespace limaquota {

// Paths are relative to the Lima home: ".usage", ".usage/_disks", ".quota/kernel-build".
// Thread safety: all functions may be called from any thread.
class VirtualTree {
 public:
  VirtualTree(UsageFiles& usage, QuotaFiles& quota, Notes& notes, uid_t uid, gid_t gid);

  struct Node {
    NodeId id = 0;
    struct stat st {};
  };
  Result<Node> lookup(NodeId parent, std::string_view name);
  Result<struct stat> attributes(NodeId id);
  // Size, mode and times may be set on files of `.quota`; all but the size is taken and forgotten.
  Result<struct stat> set_size(NodeId id, uint64_t size);
  Result<void> may_change(NodeId id);

  struct Child {
    std::string name;
    NodeId id = 0;
    bool directory = false;
  };
  Result<std::vector<Child>> list(NodeId id);

  // A text that the worker before had kept for an open file.
  void take_over_text(int descriptor);
  // `replay` is that of the request in service.
  Result<uint64_t> open(Replay& replay, NodeId id, int flags);
  // `flags` as of open(2).
  Result<std::pair<Node, uint64_t>> create(Replay& replay, NodeId parent, std::string_view name, int flags);
  // A handle goes with its node: a worker that takes over (fs/handover/notes.hpp) knows it by both.
  Result<std::string> read(NodeId node, uint64_t handle, size_t size, uint64_t offset);
  // `owner` stands for the process that writes or closes (FUSE's lock owner).
  Result<size_t> write(NodeId node, uint64_t handle, std::string_view data, uint64_t offset, uint64_t owner);
  Result<void> flush(NodeId node, uint64_t handle, uint64_t owner);
  void release(NodeId node, uint64_t handle);
  Result<void> unlink(Replay& replay, NodeId parent, std::string_view name);
  Result<void> rename(Replay& replay, NodeId parent, std::string_view name, NodeId new_parent,
                      std::string_view new_name, unsigned flags);

 private:
  // Handles are numbers; those that write are odd.
  static bool writes(uint64_t handle) { return (handle & 1) != 0; }
  enum class Kind { none, usage_dir, usage_file, quota_dir, quota_file };
  Kind kind(std::string_view path) const;
  NodeId id_of(const std::string& path);
  std::optional<std::string> path_of(NodeId id);
  void know_all();
  Result<std::string> child_path(NodeId parent, std::string_view name);
  struct stat stat_of(NodeId id, const std::string& path, Kind kind) const;
  // A handle for the open or create in service; the same where that comes again.
  enum class Opened : uint8_t { to_read, to_write };
  uint64_t handle_for_request(Replay& replay, Opened opened);
  Result<uint64_t> open_file(const std::string& path, int flags, uint64_t handle);
  Result<std::string> read_usage(const std::string& path, uint64_t handle, size_t size, uint64_t offset);

  UsageFiles& usage_;
  QuotaFiles& quota_;
  Notes& notes_;
  const uid_t uid_;
  const gid_t gid_;
  mutable Mutex mutex_;
  std::map<std::string, NodeId, std::less<>> ids_ GUARDED_BY(mutex_);
  std::unordered_map<NodeId, std::string> paths_ GUARDED_BY(mutex_);
  // Of an open `.usage` file: what its beginning was read with.
  std::unordered_map<uint64_t, KeptText> texts_ GUARDED_BY(mutex_);
  uint64_t next_handle_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
