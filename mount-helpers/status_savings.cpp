#include "mount-helpers/status_savings.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <set>
#include <sstream>
#include <utility>
#include <variant>

#include "accounting/layout.hpp"
#include "accounting/profile.hpp"
#include "mount-helpers/home.hpp"
#include "mount-helpers/lima_vms.hpp"
#include "mount-helpers/process.hpp"
#include "mount-helpers/quota.hpp"
#include "mount-helpers/refusal.hpp"
#include "mount-helpers/resume.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds all_guests_deadline{2500};
// What is not on the VM's disks, or is a part of another filesystem.
constexpr const char* not_on_disk[] = {"tmpfs",   "devtmpfs", "overlay", "squashfs",
                                       "iso9660", "9p",       "virtiofs"};

// As its profile says; one that cannot be read says nothing.
bool is_temporary(const std::string& home, const std::string& vm) {
  std::ifstream file(fs::path(home) / "_config" / "limaquota" / (vm + ".yaml"));
  const Parsed<Profile> profile = parse_profile(std::string{std::istreambuf_iterator<char>(file), {}});
  return std::holds_alternative<Profile>(profile) && std::get<Profile>(profile).temporary;
}

// What the disks attached to a VM occupy.
Bytes attached_bytes(const Snapshot& snapshot, const AccountFigures& vm, std::set<std::string>* attached) {
  Bytes bytes;
  for (const DiskFigures& disk : vm.disks) {
    const size_t slash = disk.name.rfind('/');
    if (slash == std::string::npos || !attached->insert(disk.name.substr(0, slash)).second) continue;
    if (const AccountFigures* account = find_account(snapshot, disk.name.substr(0, slash)))
      bytes += account->used;
  }
  return bytes;
}

void add_unused(const std::string& home, const Snapshot& snapshot, std::string_view prefix,
                std::vector<UnusedLimit>* unused) {
  std::error_code error;
  const fs::path directory = fs::path(home) / quota_directory / prefix;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    const std::string name = std::string(prefix) + file;
    std::error_code none;
    if (!is_vm_name(file) || !entry->is_regular_file(none) || find_account(snapshot, name)) continue;
    try {
      unused->push_back({name, read_limits(home, name).limit});
    } catch (const Refusal&) {
      unused->push_back({name, std::nullopt});
    }
  }
}

}  // namespace

std::string_view to_string(FreeableKind kind) {
  switch (kind) {
    case FreeableKind::stopped:
      return "stopped";
    case FreeableKind::temporary:
      return "temporary";
    case FreeableKind::detached:
      return "detached";
  }
  return "stopped";
}

Savings find_savings(const std::string& home, const Snapshot& snapshot) {
  std::set<std::string> running, attached;
  for (const LimaVm& vm : running_vms(home)) running.insert(vm.name);
  Savings savings;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_vm(account)) continue;
    const Bytes own = minus_or_zero(account.used, attached_bytes(snapshot, account, &attached));
    const bool temporary = is_temporary(home, account.name);
    const bool runs = running.contains(account.name);
    if (account.state == AccountState::outside || (runs && !temporary)) continue;
    savings.freeable.push_back(
        {account.name, temporary ? FreeableKind::temporary : FreeableKind::stopped, runs, own});
  }
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_disk(account) || account.state == AccountState::outside || attached.contains(account.name))
      continue;
    savings.freeable.push_back({account.name, FreeableKind::detached, false, account.used});
  }
  std::stable_sort(savings.freeable.begin(), savings.freeable.end(),
                   [](const Freeable& a, const Freeable& b) { return a.bytes > b.bytes; });
  add_unused(home, snapshot, "", &savings.unused_limits);
  add_unused(home, snapshot, std::string(disks_directory) + "/", &savings.unused_limits);
  std::sort(savings.unused_limits.begin(), savings.unused_limits.end(),
            [](const UnusedLimit& a, const UnusedLimit& b) { return a.name < b.name; });
  return savings;
}

std::optional<Inside> look_inside(const std::string& home, const AccountFigures& vm, std::string* why,
                                  std::chrono::milliseconds deadline) {
  std::vector<std::string> words = {"limactl", "shell",          "--workdir",           "/", vm.name, "df",
                                    "--local", "--block-size=1", "--output=source,used"};
  for (const char* type : not_on_disk) words.insert(words.end(), {"-x", type});
  RunOptions options;
  options.environment = {"LIMA_HOME=" + home};
  options.deadline = deadline;
  const Ended ended = run_program(words, options);
  if (!ended.ok()) {
    *why = ended.timed_out
               ? fmt::format("no answer within {:g} s", static_cast<double>(deadline.count()) / 1000)
               : ended.complaint();
    return std::nullopt;
  }
  std::istringstream lines(ended.out);
  std::set<std::string> seen;  // a filesystem mounted twice has two lines
  Inside inside;
  uint64_t used = 0;
  for (std::string line, source; std::getline(lines, line);) {
    std::istringstream parts(line);
    if (!(parts >> source >> used) || !source.starts_with('/') || !seen.insert(source).second) continue;
    inside.used = plus_or_unlimited(inside.used, Bytes(used));
  }
  if (seen.empty()) {
    *why = "df in the guest named no disk";
    return std::nullopt;
  }
  Bytes allocated;
  for (const DiskFigures& disk : vm.disks) allocated += disk.allocated;
  inside.reclaimable = minus_or_zero(allocated, inside.used);
  return inside;
}

Insides look_inside_all(const std::string& home, const Snapshot& snapshot) {
  Insides insides;
  if (!find_program("limactl")) return insides;
  std::vector<std::pair<std::optional<Inside>*, std::future<std::optional<Inside>>>> answers;
  for (const LimaVm& vm : running_vms(home)) {
    const AccountFigures* account = find_account(snapshot, vm.name);
    if (account == nullptr || account->state == AccountState::outside) continue;
    std::optional<Inside>& inside = insides[vm.name];
    if (account->refused_writes > 0 && !has_room(account)) continue;
    answers.emplace_back(&inside, std::async(std::launch::async, [&home, account] {
      std::string why;
      return look_inside(home, *account, &why, all_guests_deadline);
    }));
  }
  for (auto& [inside, answer] : answers) *inside = answer.get();
  return insides;
}

}  // namespace limaquota
