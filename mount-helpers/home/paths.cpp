#include "mount-helpers/home/paths.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "fs/system/mountinfo.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {

bool is_mountpoint(const std::string& directory) {
  const std::vector<MountedAt> all = mounts();
  return std::any_of(all.begin(), all.end(), [&](const MountedAt& mount) {
    return mount.path == directory && mount.type == "fuse.limaquota";
  });
}

std::optional<std::string> find_real_path(const std::string& path) {
  // A slash at the end would have realpath() look into the directory.
  const std::string plain = path.substr(0, std::max(path.find_last_not_of('/') + 1, size_t{1}));
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(plain.c_str(), nullptr), &std::free);
  if (resolved) return resolved.get();
  if (errno == ENOENT) return std::nullopt;
  throw Refusal(fmt::format("{}: {}", path, std::strerror(errno)));
}

std::string real_path(const std::string& path) {
  if (auto resolved = find_real_path(path)) return std::move(*resolved);
  throw Refusal(fmt::format("{}: {}", path, std::strerror(ENOENT)));
}

}  // namespace limaquota
