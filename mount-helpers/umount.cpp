// limaquota umount [MOUNTPOINT]
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/home.hpp"

namespace limaquota {
namespace {

// The process that a pid file names, where it is alive; else 0.
pid_t live_process(const std::filesystem::path& pid_file) {
  std::ifstream file(pid_file);
  pid_t pid = 0;
  if (!(file >> pid) || pid <= 0) return 0;
  return ::kill(pid, 0) == 0 || errno == EPERM ? pid : 0;
}

// "name (process 123)" of each VM that runs from the home, as Lima judges it: by its pid files.
std::vector<std::string> running_vms(const std::string& home) {
  std::vector<std::string> running;
  std::error_code error;  // a home that cannot be read (its daemon is dead) keeps no VM running
  for (std::filesystem::directory_iterator entry(home, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!is_vm_name(name)) continue;
    for (const char* pid_file : {"qemu.pid", "ha.pid"}) {
      const pid_t pid = live_process(entry->path() / pid_file);
      if (pid == 0) continue;
      running.push_back(fmt::format("{} (process {})", escape_name(name), pid));
      break;
    }
  }
  return running;
}

// Runs fusermount3 -u; returns what it complained of, empty where it succeeded.
std::string run_fusermount(std::string mountpoint) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::strerror(errno);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::string words[] = {"fusermount3", "-u", "--", std::move(mountpoint)};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), nullptr};
  pid_t pid = 0;
  const int spawned = ::posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string complaint;
  char part[512];
  for (ssize_t got = 0; spawned == 0 && (got = ::read(ends[0], part, sizeof part)) > 0;) {
    complaint.append(part, static_cast<size_t>(got));
  }
  ::close(ends[0]);
  if (spawned != 0)
    return fmt::format("fusermount3: {} (it is in the package fuse3)", std::strerror(spawned));
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return complaint.empty() ? "fusermount3 failed" : complaint.substr(0, complaint.find('\n'));
}

void unmount(const std::string& mountpoint) {
  std::string complaint;
  if (::geteuid() == 0) {
    if (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW) == 0) return;
    complaint = std::strerror(errno);
  } else {
    complaint = run_fusermount(mountpoint);
    if (complaint.empty()) return;
  }
  if (complaint.find(std::strerror(EBUSY)) != std::string::npos) {
    throw Refusal(
        fmt::format("{0} is in use: \"fuser -vm {0}\" names the processes with open files or "
                    "working directories in it; end them and try again",
                    mountpoint));
  }
  throw Refusal(fmt::format("cannot unmount {}: {}", mountpoint, complaint));
}

void run_umount(const std::string& given) {
  const std::string home = real_path(choose_home(given));
  if (!is_mountpoint(home)) {
    throw Refusal(fmt::format("{} is not mounted: there is nothing to unmount", home));
  }
  const std::vector<std::string> running = running_vms(home);
  if (!running.empty()) {
    throw Refusal(fmt::format("VMs run from {}: {}; stop them first (limactl stop NAME)", home,
                              fmt::join(running, ", ")));
  }
  unmount(home);
}

}  // namespace

void add_umount(CLI::App& program, int&) {
  CLI::App* command = program.add_subcommand("umount", "Unmount, if no VM runs from the home");
  auto home = std::make_shared<std::string>();
  command->add_option("MOUNTPOINT", *home, "Where it is mounted; else $LIMA_HOME, else ~/.lima")
      ->option_text("DIR");
  command->footer(
      "Limits stay: they are files in the home, and hold again at the next mount.\n"
      "Examples:\n"
      "  limaquota umount\n"
      "  limaquota umount /mnt/lima");
  command->callback([home] { run_umount(*home); });
}

}  // namespace limaquota
