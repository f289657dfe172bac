#include "mount-helpers/accounts/savings.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <variant>

#include "accounting/layout.hpp"
#include "accounting/profile.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/home/limit_file.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

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

}  // namespace limaquota
