// What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace limaquota {

// One line of /proc/self/mountinfo.
struct MountedAt {
  std::string path;    // unescaped
  std::string device;  // "MAJOR:MINOR" of st_dev
  std::string type;
  std::string source;  // unescaped
  std::string super_options;
};
// All that this process sees, in the order in which they were mounted. Thread safe, as all here.
std::vector<MountedAt> mounts();
// The mount that `path` (absolute, links resolved) lies in.
std::optional<MountedAt> mount_of(const std::string& path);

// Whether `path` is `directory` or lies below it. Both are absolute; neither is looked at on the disk.
bool lies_in(std::string_view path, std::string_view directory);

}  // namespace limaquota
