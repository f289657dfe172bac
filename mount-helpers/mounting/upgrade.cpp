// limaquota upgrade [MOUNTPOINT]
#include <fmt/core.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "accounting/escape.hpp"
#include "fs/daemon/mount_home.hpp"
#include "fs/daemon/upgrade.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

std::string name_of(const Daemon& daemon) {
  return daemon.mountpoint.empty() ? fmt::format("the daemon with process {}", daemon.supervisor)
                                   : escape_name(daemon.mountpoint);
}

// Why it was not upgraded; empty where it was.
std::string complaint_of(const Daemon& daemon) {
  if (daemon.notes == nullptr) {
    return "it is of another version, from which this one cannot take over: stop its VMs, then "
           "\"limaquota umount\" and \"limaquota mount\"";
  }
  Progress progress("upgrading " + name_of(daemon), std::nullopt);
  switch (upgrade(daemon, [&] { progress.show(Bytes(0)); })) {
    case Upgraded::done:
      return {};
    case Upgraded::refused:
      return "it cannot be taken over as it is (FUSE over io_uring, or Linux before 6.9), or not by this "
             "version: its log says which; \"limaquota umount\" and \"limaquota mount\" do the same while no "
             "VM runs";
    case Upgraded::failed:
      return "this version did not come up, and the one before goes on: its log says why";
    case Upgraded::silent:
      return "its supervisor does not answer: \"limaquota doctor\" says more";
  }
  return {};
}

int run_upgrade(const std::string& mountpoint) {
  std::vector<Daemon> wanted = daemons();
  if (!mountpoint.empty()) {
    const std::string path = real_path(mountpoint);
    if (!is_mountpoint(path))
      throw Refusal(fmt::format("{} is not mounted: there is nothing to upgrade", escape_name(path)));
    std::erase_if(wanted, [&](const Daemon& one) { return one.notes != nullptr && one.mountpoint != path; });
    const bool known =
        std::any_of(wanted.begin(), wanted.end(), [](const Daemon& one) { return one.notes != nullptr; });
    if (wanted.empty())
      throw Refusal(
          fmt::format("no daemon of yours serves {}: there is nothing to upgrade", escape_name(path)));
    if (known) std::erase_if(wanted, [](const Daemon& one) { return one.notes == nullptr; });
  }
  if (wanted.empty()) fmt::print("nothing is mounted: there is nothing to upgrade\n");
  int status = 0;
  for (const Daemon& daemon : wanted) {
    const std::string complaint = complaint_of(daemon);
    if (complaint.empty()) {
      fmt::print("{}: served by limaquota " LIMAQUOTA_VERSION " now\n", name_of(daemon));
    } else {
      warn(fmt::format("limaquota: {} is not upgraded: {}", name_of(daemon), complaint));
      status = 1;
    }
  }
  return status;
}

}  // namespace

void add_upgrade(Program& program) {
  Command command = program.command("upgrade", "Have this version serve what is mounted, while VMs run");
  auto mountpoint = std::make_shared<std::string>();
  command.text("MOUNTPOINT", *mountpoint, "Only this mount; else all of yours, as root everybody's")
      .shown_as("DIR");
  command.footer(
      "Programs and VMs wait for a moment and notice nothing else. A version that does not come up is given "
      "up for the one before.\n"
      "\n"
      "Examples:\n"
      "  limaquota upgrade              after a new version was installed\n"
      "  ./build/release/limaquota upgrade ~/.lima");
  program.on(command, [mountpoint] { return run_upgrade(*mountpoint); });
}

// What the supervisor of a mount executes.
void add_take_over(Program& program) {
  Command command = program.hidden_command(take_over_command, "");
  auto notes = std::make_shared<int>(-1);
  auto mountpoint = std::make_shared<std::string>();
  auto tries = std::make_shared<bool>(false);
  command.number("NOTES", *notes).required();
  command.text("MOUNTPOINT", *mountpoint);  // for people who look at the list of processes
  command.flag(try_option, *tries);
  program.on(command, [notes, tries, mountpoint] {
    if (*tries) return try_notes(*notes);
    ::prctl(PR_SET_NAME, "limaquota");
    return take_over_home(*notes);
  });
}

}  // namespace limaquota
