#include "fs/system/mountinfo.hpp"

#include <fstream>
#include <sstream>
#include <utility>

#include "accounting/names.hpp"

namespace limaquota {

bool lies_in(std::string_view path, std::string_view directory) {
  if (directory == "/") return path.starts_with('/');
  return path == directory || (path.starts_with(directory) && path[directory.size()] == '/');
}

std::vector<MountedAt> mounts() {
  std::vector<MountedAt> all;
  std::ifstream file("/proc/self/mountinfo");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string id, parent, device, root, path, options, word;
    words >> id >> parent >> device >> root >> path >> options;
    while (words >> word && word != "-") {
    }
    MountedAt mount;
    std::string source;
    words >> mount.type >> source >> mount.super_options;
    mount.path = unescape_name(path);
    mount.device = device;
    mount.source = unescape_name(source);
    all.push_back(std::move(mount));
  }
  return all;
}

std::optional<MountedAt> mount_of(const std::string& path) {
  std::optional<MountedAt> best;
  for (MountedAt& mount : mounts()) {
    // Of two mounts on one path the later one is on top.
    if (lies_in(path, mount.path) && (!best || mount.path.size() >= best->path.size()))
      best = std::move(mount);
  }
  return best;
}

}  // namespace limaquota
