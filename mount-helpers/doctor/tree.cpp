// The tree: running VMs, what leads out of it, damaged limits, links across accounts.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/doctor/doctor.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/home/survey.hpp"
#include "mount-helpers/reclaim/leftovers.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

// A disk that the VM's QEMU has open on another filesystem than the one that its directory is seen on: the
// bare tree beneath the mount, or a mount that was detached. Empty where there is none.
std::string disk_past_the_mount(const LimaVm& vm) {
  struct stat seen {};
  if (::stat(vm.directory.c_str(), &seen) != 0) return "";
  std::error_code error;
  const fs::path descriptors = fmt::format("/proc/{}/fd", vm.qemu);
  for (fs::directory_iterator entry(descriptors, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code none;
    const fs::path target = fs::read_symlink(entry->path(), none);
    // A detached mount shows its own root as "/".
    if (!is_disk_file_name(target.filename().string()) || target.parent_path().filename() != vm.name)
      continue;
    struct stat st {};
    const bool known = ::stat(entry->path().c_str(), &st) == 0;
    if (!known || st.st_dev != seen.st_dev) return target.string();
  }
  return "";
}

void check_running(const Patient& patient, Findings& findings) {
  for (const LimaVm& vm : running_vms(patient.home)) {
    const std::string name = escape_name(vm.name);
    if (const std::string disk = disk_past_the_mount(vm); !disk.empty()) {
      findings.push_back(
          {Severity::problem, "VM " + name,
           fmt::format("runs past the mount (it has {} open beneath it, or in one that was detached)",
                       escape_name(disk)),
           "shut it down inside (by ssh: its sockets are out of reach, limactl would kill it), then start it "
           "again"});
    } else if (patient.mount == MountState::none) {
      findings.push_back(
          {Severity::problem, "VM " + name, "runs on the bare tree, so without a limit",
           fmt::format("limactl stop {}, then limaquota mount, then start it again", shell_quoted(vm.name))});
    }
  }
}

void check_accounts(const Patient& patient, Findings& findings) {
  bool mounted = false;
  const Report report = read_report_or_survey(patient.home, mounted);
  for (const std::string& note : report.notes) {
    // Those are findings of their own, below.
    const bool known =
        note.find("leads out of the Lima home") != std::string::npos || note.starts_with("limit file ");
    if (!known) findings.push_back({Severity::warning, "tree", note, "let yourself read it: chmod u+rx"});
  }
  for (const AccountFigures& account : report.snapshot.accounts) {
    const std::string name = escape_name(account.name);
    const std::string topic = is_vm(account) ? "VM " + name : "account " + name;
    if (account.state == AccountState::outside) {
      findings.push_back(
          {Severity::problem, topic,
           "its directory or a disk of it is a symlink that leads out of the home: not limited",
           "move what it names into the home in place of the link"});
    } else if (account.state == AccountState::damaged) {
      findings.push_back(
          {Severity::problem, topic,
           fmt::format("its limit file cannot be read, so its limit is {}", format_size(account.limit)),
           fmt::format("limaquota set {} SIZE", shell_quoted(account.name))});
    } else if (is_vm(account) && account.limit.is_unlimited()) {
      findings.push_back({Severity::note, topic, "has no limit",
                          fmt::format("limaquota set {} SIZE", shell_quoted(account.name))});
    }
  }
  const HostFigures& host = report.snapshot.host;
  if (host.free < host.reserve) {
    findings.push_back(
        {Severity::warning, "host",
         fmt::format("{} are free, less than the reserve of {}: no disk can grow", format_size(host.free),
                     format_size(host.reserve)),
         "free some space (limaquota status shows what could be), or limaquota set _host LESS"});
  }
}

// A file with several names, and where they are.
struct Links {
  std::set<std::string> accounts;
  std::vector<std::string> names;
};

std::string account_of(const fs::path& below_home) {
  auto part = below_home.begin();
  const std::string first = part->string();
  if (++part == below_home.end()) return std::string(shared_account);
  if (first == disks_directory) {
    const std::string disk = part->string();
    return ++part == below_home.end() ? std::string(shared_account) : account_of_disk(disk);
  }
  return account_of_home_directory(first).value_or(std::string(shared_account));
}

void check_links(const Patient& patient, Findings& findings) {
  std::map<std::pair<dev_t, ino_t>, Links> files;
  std::error_code error;
  const auto skip = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator entry(patient.home, skip, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat st {};
    if (::lstat(entry->path().c_str(), &st) != 0 || S_ISDIR(st.st_mode) || st.st_nlink < 2) continue;
    const fs::path name = entry->path().lexically_relative(patient.home);
    Links& links = files[{st.st_dev, st.st_ino}];
    links.accounts.insert(account_of(name));
    links.names.push_back(escape_name(name.string()));
  }
  for (auto& [inode, links] : files) {
    if (links.accounts.size() < 2) continue;
    std::sort(links.names.begin(), links.names.end());
    findings.push_back({Severity::warning, "tree",
                        fmt::format("{} are names of one file, which counts in each of {}",
                                    fmt::join(links.names, " and "), fmt::join(links.accounts, ", ")),
                        "delete one of the names, or put a copy there"});
  }
}

void check_leftovers(const Patient& patient, Findings& findings) {
  for (const Leftover& leftover : leftovers_in(patient.home)) {
    findings.push_back({Severity::warning, "reclaim",
                        fmt::format("{} ({}) was left behind by a run that was cut off",
                                    escape_name(leftover.file.string()), format_size(leftover.allocated)),
                        "rm " + shell_quoted(leftover.file.string())});
  }
}

}  // namespace

void check_tree(const Patient& patient, Findings& findings) {
  check_running(patient, findings);
  try {
    check_accounts(patient, findings);
  } catch (const Refusal& refusal) {
    findings.push_back({Severity::problem, "tree", refusal.what(), ""});
  }
  check_links(patient, findings);
  check_leftovers(patient, findings);
}

}  // namespace limaquota
