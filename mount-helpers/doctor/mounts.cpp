// The mount itself, dead ones, and what lies beneath and within.
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "fs/daemon/preflight.hpp"
#include "fs/daemon/upgrade.hpp"
#include "fs/system/mountinfo.hpp"
#include "mount-helpers/doctor/doctor.hpp"
#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

constexpr std::string_view our_type = "fuse.limaquota";

bool lies_below(const std::string& path, const std::string& directory) {
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

std::string used_by(const std::string& tree) {
  const auto user = user_of_tree(tree);
  return user ? ", and " + *user : "";
}

bool is_this_program(pid_t process) {
  struct stat theirs {};
  struct stat own {};
  return ::stat(fmt::format("/proc/{}/exe", process).c_str(), &theirs) != 0 ||
         ::stat("/proc/self/exe", &own) != 0 || (theirs.st_dev == own.st_dev && theirs.st_ino == own.st_ino);
}

void check_program(const std::string& home, Findings& findings) {
  for (const Daemon& daemon : daemons()) {
    if (daemon.mountpoint != home || is_this_program(daemon.supervisor)) continue;
    findings.push_back({Severity::note, "mount",
                        fmt::format("{} is served by another limaquota than this one", escape_name(home)),
                        fmt::format("limaquota upgrade {}", shell_quoted(home))});
  }
}

void check_own(const Patient& patient, const std::vector<MountedAt>& all, Findings& findings) {
  const std::string home = escape_name(patient.home);
  switch (patient.mount) {
    case MountState::alive:
      findings.push_back({Severity::ok, "mount", home + " is covered and its daemon answers", ""});
      check_program(patient.home, findings);
      return;
    case MountState::hung:
      findings.push_back(
          {Severity::problem, "mount", "the daemon of " + home + " does not answer within 5 s",
           "look at it with ps -C limaquota -o pid,stat,wchan:30; it may wait for a disk that hangs"});
      return;
    case MountState::dead:
      findings.push_back(
          {Severity::problem, "mount", fmt::format("the daemon of {} is gone{}", home, used_by(patient.home)),
           fmt::format("limaquota mount {}, which clears the dead mount first; VMs that ran from it have to "
                       "be started again",
                       shell_quoted(patient.home))});
      return;
    case MountState::none:
      break;
  }
  const auto elsewhere = std::find_if(all.begin(), all.end(), [&](const MountedAt& mount) {
    return mount.type == our_type && mount.source == patient.home;
  });
  const std::string shown =
      elsewhere == all.end()
          ? ""
          : fmt::format("; it is shown at {}, and limits hold only there", escape_name(elsewhere->path));
  findings.push_back({Severity::problem, "mount",
                      home + " is not mounted, so nothing holds its limits" + shown,
                      fmt::format("stop the VMs, then limaquota mount {}", shell_quoted(patient.home))});
}

void check_dead_elsewhere(const Patient& patient, const std::vector<MountedAt>& all, Findings& findings) {
  for (const MountedAt& mount : all) {
    if (mount.type != our_type || mount.path == patient.home) continue;
    if (mount_state(mount.path) != MountState::dead) continue;
    findings.push_back({Severity::warning, "mount",
                        fmt::format("{} is left of a daemon that is gone", escape_name(mount.path)),
                        fmt::format("limaquota umount --lazy {}", shell_quoted(mount.path))});
  }
}

void check_within(const Patient& patient, const std::vector<MountedAt>& all, Findings& findings) {
  for (const MountedAt& mount : all) {
    if (!lies_below(mount.path, patient.home)) continue;
    findings.push_back({Severity::problem, "tree",
                        fmt::format("another filesystem ({}) is mounted inside, at {}: {}", mount.type,
                                    escape_name(mount.path),
                                    patient.mount == MountState::none ? "limaquota will not mount over it"
                                                                      : "what is in it is not limited"),
                        fmt::format("umount {}", shell_quoted(mount.path))});
  }
}

// The mount that the backing tree lies in: the last one above that is not ours.
std::optional<MountedAt> backing_of(const std::string& home, const std::vector<MountedAt>& all) {
  std::string tree = home;
  for (const MountedAt& mount : all) {
    if (mount.type == our_type && mount.path == home) tree = mount.source;
  }
  std::optional<MountedAt> best;
  for (const MountedAt& mount : all) {
    const bool above = mount.path == "/" || mount.path == tree || lies_below(tree, mount.path);
    if (above && mount.type != our_type && (!best || mount.path.size() >= best->path.size())) best = mount;
  }
  return best;
}

void check_backing(const Patient& patient, const std::vector<MountedAt>& all, Findings& findings) {
  const auto backing = backing_of(patient.home, all);
  if (!backing) return;
  const std::string name = fmt::format("{} at {}", backing->type, escape_name(backing->path));
  const std::string options = "," + backing->super_options + ",";
  if (options.find(",ro,") != std::string::npos) {
    findings.push_back({Severity::warning, "backing", name + " is read-only: nothing can be written at all",
                        "look into the kernel's log (dmesg) for errors of the disk"});
  } else if (backing->type == "ext4" || backing->type == "xfs") {
    findings.push_back({Severity::ok, "backing", name, ""});
  } else if (backing->type == "btrfs") {
    findings.push_back(
        {Severity::note, "backing",
         name + ": overwriting blocks that snapshots or reflinks share takes space of the host which "
                "no limit counts; it shows as host_full",
         ""});
  } else if (backing->type == "tmpfs") {
    findings.push_back({Severity::note, "backing", name + ": its files are gone after a reboot", ""});
  } else {
    findings.push_back(
        {Severity::warning, "backing",
         name + ": limits are known to hold on ext4, XFS, btrfs and tmpfs; here nobody has tried",
         "have the Lima home on one of those"});
  }
}

}  // namespace

void check_mounts(const Patient& patient, Findings& findings) {
  const std::vector<MountedAt> all = mounts();
  check_dead_elsewhere(patient, all, findings);
  if (!patient.exists) return;
  check_own(patient, all, findings);
  check_within(patient, all, findings);
  check_backing(patient, all, findings);
}

}  // namespace limaquota
