// The user's systemd units: ours, and Lima's own, which must not start on the bare tree.
#include <fmt/core.h>
#include <pwd.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/doctor/doctor.hpp"
#include "mount-helpers/mounting/units.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view lima_unit = "lima-vm@";
constexpr std::chrono::seconds manager_deadline{5};

// "lima-vm@x.service, ..." that default.target starts, of VMs of this home.
std::string lima_units(const fs::path& directory, const Patient& patient) {
  std::string names;
  std::error_code error;
  for (fs::directory_iterator entry(directory / "default.target.wants", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(lima_unit) || !patient.is_readable()) continue;
    const std::string vm = entry->path().stem().string().substr(lima_unit.size());
    std::error_code none;
    if (!fs::exists(fs::path(patient.home) / vm, none)) continue;
    names += (names.empty() ? "" : ", ") + escape_name(name);
  }
  return names;
}

void check_active(Findings& findings) {
  RunOptions options;
  options.deadline = manager_deadline;
  const Ended ended = run_program({"systemctl", "--user", "is-active", mount_unit}, options);
  if (ended.ok()) {
    findings.push_back({Severity::ok, "units", fmt::format("{} is active", mount_unit), ""});
    return;
  }
  const bool inactive = ended.out.starts_with("inactive") || ended.out.starts_with("failed");
  findings.push_back(
      {Severity::note, "units",
       inactive ? fmt::format("{} is {}", mount_unit, ended.out.substr(0, ended.out.find('\n')))
                : fmt::format("no user manager answers; {} counts from the next login", mount_unit),
       inactive ? fmt::format("systemctl --user start {0}, or journalctl --user -u {0}", mount_unit) : ""});
}

void check_linger(Findings& findings) {
  const passwd* user = ::getpwuid(::geteuid());
  std::error_code error;
  if (user == nullptr || fs::exists(fs::path("/var/lib/systemd/linger") / user->pw_name, error)) return;
  findings.push_back({Severity::note, "units",
                      "VMs outlive a logout, but the mount then ends with the login session",
                      "loginctl enable-linger"});
}

}  // namespace

void check_units(const Patient& patient, Findings& findings) {
  std::optional<UnitDirectory> units;
  try {
    units.emplace();
  } catch (const Refusal&) {  // nobody knows where they would be
    return;
  }
  const fs::path& directory = units->path();
  std::error_code error;
  const bool ours = units->home() == patient.home;
  const bool ordered = fs::exists(directory / "lima-vm@.service.d" / "limaquota.conf", error);
  if (const std::string names = lima_units(directory, patient); !names.empty() && !(ours && ordered)) {
    findings.push_back(
        {Severity::problem, "units",
         fmt::format("{} start at login without waiting for the mount, so on the bare tree", names),
         "limaquota enable"});
  }
  if (!ours) {
    findings.push_back(
        {Severity::note, "units", "nothing mounts it after a login", "limaquota enable, or /etc/fstab"});
    return;
  }
  check_active(findings);
  check_linger(findings);
}

}  // namespace limaquota
