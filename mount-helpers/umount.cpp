// limaquota umount [MOUNTPOINT]
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/home.hpp"
#include "mount-helpers/lima_vms.hpp"
#include "mount-helpers/process.hpp"

namespace limaquota {
namespace {

// "name (process 123)" of each VM that runs from the home.
std::vector<std::string> running_vms(const std::string& home) {
  std::vector<std::string> running;
  for (const LimaVm& vm : lima_vms(home)) {
    if (!vm.is_running()) continue;
    running.push_back(
        fmt::format("{} (process {})", escape_name(vm.name), vm.qemu != 0 ? vm.qemu : vm.hostagent));
  }
  return running;
}

void unmount(const std::string& mountpoint) {
  std::string complaint;
  if (::geteuid() == 0) {
    if (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW) == 0) return;
    complaint = std::strerror(errno);
  } else {
    const Ended ended = run_program({"fusermount3", "-u", "--", mountpoint});
    if (ended.ok()) return;
    complaint = ended.complaint() + (ended.status == 127 ? " (it is in the package fuse3)" : "");
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
