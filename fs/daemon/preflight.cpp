#include "fs/daemon/preflight.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "fs/daemon/lima_vms.hpp"
#include "fs/system/mountinfo.hpp"

namespace limaquota {
namespace {

constexpr int ending_daemon_looks = 100;

template <class Each>
void for_each_name(const std::string& directory, Each each) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()), ::closedir);
  if (!dir) return;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] != '.' || std::strlen(entry->d_name) > 2) each(std::string(entry->d_name));
  }
}

std::string link_target(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  return size < 0 ? std::string() : std::string(target, static_cast<size_t>(size));
}

std::string command_of(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/comm");
  std::string name;
  std::getline(file, name);
  return name.empty() ? "process" : escape_name(name);
}

struct User {
  std::string command;
  std::string what;  // a clause for people
};

constexpr const char* daemon_command = "limaquota";

// `daemons`: those that serve the tree count too.
std::optional<User> find_user(const std::string& tree, bool daemons) {
  std::optional<User> found;
  const std::string self = std::to_string(::getpid());
  for_each_name("/proc", [&](const std::string& pid) {
    if (found || std::isdigit(static_cast<unsigned char>(pid[0])) == 0 || pid == self) return;
    if (!daemons && command_of(pid) == daemon_command) return;
    const std::string base = "/proc/" + pid;
    for (const char* what : {"/cwd", "/exe", "/root"}) {
      const std::string target = link_target(base + what);
      if (target.empty() || target == "/" || !lies_in(target, tree)) continue;
      const char* word = std::strcmp(what, "/cwd") == 0 ? "has its working directory" : "runs from";
      found = User{command_of(pid), fmt::format("{} (pid {}) {} in {}: end it or let it go elsewhere first",
                                                command_of(pid), pid, word, escape_name(target))};
      return;
    }
    for_each_name(base + "/fd", [&](const std::string& fd) {
      const std::string target = link_target(base + "/fd/" + fd);
      if (found || target.empty() || !lies_in(target, tree)) return;
      found = User{command_of(pid), fmt::format("{} (pid {}) has {} open: end it first", command_of(pid), pid,
                                                escape_name(target))};
    });
  });
  return found;
}

// Whether there is a mount that shows the tree, wherever it is.
bool is_shown(const std::string& tree) {
  const std::vector<MountedAt> all = mounts();
  return std::any_of(all.begin(), all.end(), [&](const MountedAt& mount) {
    return mount.type == "fuse.limaquota" && mount.source == tree;
  });
}

}  // namespace

std::optional<std::string> user_of_tree(const std::string& tree) {
  const auto user = find_user(tree, false);
  if (!user) return std::nullopt;
  return user->what;
}

std::optional<std::string> reason_against_mount(const std::string& source, const std::string& mountpoint) {
  for (const std::string& path : {mountpoint, source}) {
    const auto mount = mount_of(path);
    if (mount && mount->type == "fuse.limaquota" && (path == source || mount->path == path)) {
      return fmt::format(
          "{} is covered by limaquota already: see it with `limaquota status --home {}`, or unmount it "
          "first: limaquota umount {}",
          path, shell_quoted(mount->path), shell_quoted(mount->path));
    }
  }
  for (const MountedAt& mount : mounts()) {
    if (mount.path != source && lies_in(mount.path, source) && source != "/") {
      return fmt::format("another filesystem ({}) is mounted inside, at {}: unmount it first: umount {}",
                         mount.type, escape_name(mount.path), shell_quoted(mount.path));
    }
  }
  if (source != mountpoint && (lies_in(source, mountpoint) || lies_in(mountpoint, source))) {
    return fmt::format(
        "{} and {} lie in each other: mount over the directory itself (one argument), or elsewhere", source,
        mountpoint);
  }
  std::vector<std::string> names, words;
  for (const LimaVm& vm : running_vms(source)) {
    names.push_back(escape_name(vm.name));
    words.push_back(shell_quoted(vm.name));
  }
  if (!names.empty()) {
    return fmt::format("{} is in use: VMs are running ({}): stop them first: limactl stop {}", source,
                       fmt::join(names, ", "), fmt::join(words, " "));
  }
  auto user = find_user(source, true);
  // After an unmount the daemon lets go of the tree a moment later; one whose mount is there does not.
  const auto daemon_ends = [&] { return user->command == daemon_command && !is_shown(source); };
  for (int i = 0; i < ending_daemon_looks && user && daemon_ends(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    user = find_user(source, true);
  }
  if (user) return fmt::format("{} is in use: {}", source, user->what);
  return std::nullopt;
}

}  // namespace limaquota
