// limaquota umount [MOUNTPOINT] [--lazy]
#include <fmt/core.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "fs/daemon/preflight.hpp"
#include "fs/system/mountinfo.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/process.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr int busy_looks = 20;

// "a (process 123), b (process 456)"
std::string list_of(const std::vector<LimaVm>& vms) {
  std::string list;
  for (const LimaVm& vm : vms) {
    list += fmt::format("{}{} (process {})", list.empty() ? "" : ", ", escape_name(vm.name),
                        vm.qemu != 0 ? vm.qemu : vm.hostagent);
  }
  return list;
}

// What fusermount3 or umount2(2) complains of; empty where it is unmounted.
std::string complaint_of_unmount(const std::string& mountpoint, bool lazy) {
  if (::geteuid() == 0) {
    return ::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0
               ? ""
               : std::strerror(errno);
  }
  const Ended ended = run_program({"fusermount3", lazy ? "-uz" : "-u", "--", mountpoint});
  if (ended.ok()) return "";
  return ended.complaint() + (ended.status == 127 ? " (it is in the package fuse3)" : "");
}

void unmount(const std::string& mountpoint, bool lazy, bool dead) {
  std::string complaint = complaint_of_unmount(mountpoint, lazy);
  // Whoever looks at the open files of all processes holds the mount for a moment.
  for (int i = 0; i < busy_looks && complaint.find(std::strerror(EBUSY)) != std::string::npos; ++i) {
    if (dead || user_of_tree(mountpoint)) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    complaint = complaint_of_unmount(mountpoint, lazy);
  }
  if (complaint.empty()) return;
  if (complaint.find(std::strerror(EBUSY)) == std::string::npos) {
    throw Refusal(fmt::format("cannot unmount {}: {}", mountpoint, complaint));
  }
  if (dead) {
    throw Refusal(fmt::format(
        "{} is in use, but its daemon is gone and nothing can be written there any more: \"limaquota umount "
        "--lazy {}\" does no further harm",
        mountpoint, shell_quoted(mountpoint)));
  }
  throw Refusal(fmt::format("{} is in use: {}", mountpoint,
                            user_of_tree(mountpoint)
                                .value_or("\"fuser -vm " + shell_quoted(mountpoint) +
                                          "\" names the processes with open files or working directories "
                                          "in it; end them and try again")));
}

// The tree that the mount shows, whose pid files can be read without its daemon.
std::string source_of(const std::string& mountpoint) {
  for (const MountedAt& mount : mounts()) {
    if (mount.type == "fuse.limaquota" && mount.path == mountpoint) return mount.source;
  }
  return mountpoint;
}

// What goes on unseen after a lazy unmount.
void warn_of(const std::vector<LimaVm>& running, const std::string& home) {
  if (running.empty()) return;
  warn(
      fmt::format("warning: these VMs still run from the mount that was {}, out of limactl's reach: {}; end "
                  "each by shutting it down inside, before anything is started or mounted there",
                  home, list_of(running)));
}

struct UmountArguments {
  std::string mountpoint;
  std::string home;
  bool lazy = false;
};

void run_umount(const UmountArguments& arguments) {
  const std::string home =
      real_path(arguments.mountpoint.empty() ? choose_home(arguments.home) : arguments.mountpoint);
  if (!is_mountpoint(home)) {
    throw Refusal(fmt::format("{} is not mounted: there is nothing to unmount", home));
  }
  const MountState state = mount_state(home);
  if (state == MountState::hung && !arguments.lazy) {
    throw Refusal(hung_text(home));
  }
  const bool alive = state == MountState::alive;
  const std::string source = source_of(home);
  std::vector<LimaVm> running;
  if (alive) running = running_vms(home);
  if (!running.empty() && !arguments.lazy) {
    throw Refusal(fmt::format("VMs run from {}: {}; stop them first: limactl stop {}", home, list_of(running),
                              quoted_names(running)));
  }
  unmount(home, arguments.lazy, state == MountState::dead);
  if (!alive) running = running_vms(source);
  warn_of(running, home);
}

}  // namespace

void add_umount(Program& program) {
  Command command = program.command("umount", "Unmount, if no VM runs from the home");
  auto arguments = std::make_shared<UmountArguments>();
  const Option mountpoint =
      command.text("MOUNTPOINT", arguments->mountpoint, "Where it is mounted; else as --home says")
          .shown_as("DIR");
  add_home_option(command, arguments->home).excludes(mountpoint);
  command.flag("--lazy", arguments->lazy, "Detach at once, also while VMs run: dangerous, see below");
  command.footer(
      "Limits stay: they are files in the home, and hold again at the next mount. A mount whose daemon died "
      "is unmounted too.\n"
      "\n"
      "--lazy takes the mount out of sight and leaves what is open as it is. The danger: a VM that runs goes "
      "on, within its limit, until it ends, and the daemon serves it until its last file is closed; but "
      "everybody else sees the bare tree. .usage shows nothing, limits cannot be raised, a VM paused at its "
      "limit stays paused, limactl reaches neither QMP nor the host agent by their sockets and cannot stop "
      "it "
      "in order. What is started now runs without any limit. Starting the same VM once more would have two "
      "QEMUs write one disk. Use it for a dead mount that is in use, or where the daemon does not answer; "
      "with a live one, stop the VMs instead.\n"
      "\n"
      "Examples:\n"
      "  limaquota umount\n"
      "  limaquota umount /mnt/lima\n"
      "  limaquota umount --lazy          the daemon died and files are still open");
  program.on(command, [arguments] {
    run_umount(*arguments);
    return 0;
  });
}

}  // namespace limaquota
