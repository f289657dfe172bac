#include "mount-helpers/home.hpp"

#include <fmt/format.h>

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"
#include "fs/preflight.hpp"
#include "mount-helpers/commands.hpp"

namespace limaquota {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* report_name = "_all.json";

// `max` is null in the JSON.
Bytes bytes_or_max(const Json& value) {
  return value.is_null() ? Bytes::unlimited() : Bytes(value.get<uint64_t>());
}

AccountState state_of(const std::string& text) {
  for (const AccountState state : account_states) {
    if (to_string(state) == text) return state;
  }
  throw Refusal("unknown state '" + text + "' in .usage/_all.json: is the daemon of another version?");
}

HostFigures host_from(const Json& json) {
  HostFigures host;
  host.free = bytes_or_max(json.at("free"));
  host.reserve = bytes_or_max(json.at("reserve"));
  host.used = bytes_or_max(json.at("used"));
  host.limits = bytes_or_max(json.at("limits"));
  host.worst_case = bytes_or_max(json.at("worst_case"));
  host.overcommit = bytes_or_max(json.at("overcommit"));
  return host;
}

AccountFigures account_from(const Json& json) {
  AccountFigures account;
  account.name = json.at("name");
  account.limit = bytes_or_max(json.at("limit"));
  account.used = bytes_or_max(json.at("used"));
  account.reserved = bytes_or_max(json.at("reserved"));
  account.available = bytes_or_max(json.at("available"));
  account.writable = bytes_or_max(json.at("writable"));
  account.peak = bytes_or_max(json.at("peak"));
  account.virtual_size = bytes_or_max(json.at("virtual"));
  account.state = state_of(json.at("state"));
  account.refused_writes = json.at("refused_writes");
  account.refused_bytes = json.at("refused_bytes");
  account.growth_per_second = json.at("growth_per_second");
  account.disk_line = bytes_or_max(json.at("disk_line"));
  if (!json.at("seconds_to_full").is_null())
    account.seconds_to_full = json.at("seconds_to_full").get<uint64_t>();
  if (json.contains("loan") && !json.at("loan").is_null()) account.loan = bytes_or_max(json.at("loan"));
  account.has_limit_file = json.at("limit_file") != "no";  // or yes, damaged
  for (const Json& disk : json.at("disks")) {
    account.disks.push_back({disk.at("name"), disk.at("format"), bytes_or_max(disk.at("allocated")),
                             bytes_or_max(disk.at("virtual"))});
  }
  return account;
}

std::string usage_path(const std::string& home, const std::string& name) {
  return fmt::format("{}/.usage/{}", home, name);
}

std::string why_unreadable(const std::string& home, const std::string& name, int error) {
  if (error == ENOTCONN) {
    return fmt::format("the daemon of {0} is gone: run \"limaquota umount {0}\", then mount it again", home);
  }
  return fmt::format("cannot read {}: {}", usage_path(home, name), std::strerror(error));
}

// Nothing where limaquota is not mounted there.
std::optional<std::string> read_if_mounted(const std::string& home, const std::string& name) {
  errno = 0;
  std::ifstream file(usage_path(home, name), std::ios::binary);
  if (!file && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  if (!file) throw Refusal(why_unreadable(home, name, errno));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw Refusal(why_unreadable(home, name, EIO));
  return text;
}

}  // namespace

std::string choose_home(const std::string& given) {
  if (!given.empty()) return given;
  for (const auto& [variable, below] : {std::pair{"LIMA_HOME", ""}, std::pair{"HOME", "/.lima"}}) {
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') return std::string(value) + below;
  }
  throw Refusal("which Lima home? Neither $LIMA_HOME nor $HOME is set: name the directory");
}

CLI::Option* add_home_option(CLI::App& command, std::string& home) {
  return command.add_option("--home", home, "The Lima home; else $LIMA_HOME, else ~/.lima")
      ->option_text("DIR");
}

Report parse_report(const std::string& text, const std::string& origin) {
  Report report;
  try {
    report.json = Json::parse(text);
    report.snapshot.host = host_from(report.json.at("host"));
    for (const Json& account : report.json.at("accounts")) {
      report.snapshot.accounts.push_back(account_from(account));
    }
  } catch (const Json::exception& error) {
    throw Refusal(fmt::format("{} is not what limaquota writes: {}", origin, error.what()));
  }
  return report;
}

std::string read_usage(const std::string& home, const std::string& name) {
  if (auto text = read_if_mounted(home, name)) return std::move(*text);
  throw Refusal(fmt::format("{0} is not mounted: run \"limaquota mount {0}\" first", home));
}

Report read_report(const std::string& home) {
  return parse_report(read_usage(home, report_name), usage_path(home, report_name));
}

std::optional<Report> read_report_if_mounted(const std::string& home) {
  const auto text = read_if_mounted(home, report_name);
  if (!text) return std::nullopt;
  return parse_report(*text, usage_path(home, report_name));
}

const AccountFigures* find_account(const Snapshot& snapshot, std::string_view name) {
  const auto& accounts = snapshot.accounts;
  const auto found = std::find_if(accounts.begin(), accounts.end(),
                                  [name](const AccountFigures& account) { return account.name == name; });
  return found == accounts.end() ? nullptr : &*found;
}

bool is_vm(const AccountFigures& account) { return is_vm_name(account.name); }

bool is_disk(const AccountFigures& account) {
  return account.name.starts_with(std::string(disks_directory) + "/");
}

std::string names_of(const Snapshot& snapshot, bool (*wanted)(const AccountFigures&)) {
  std::string names;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!wanted(account)) continue;
    if (!names.empty()) names += ", ";
    names += escape_name(account.name);
  }
  return names.empty() ? "none" : names;
}

bool is_mountpoint(const std::string& directory) {
  const std::vector<MountedAt> all = mounts();
  return std::any_of(all.begin(), all.end(), [&](const MountedAt& mount) {
    return mount.path == directory && mount.type == "fuse.limaquota";
  });
}

bool is_dead_mount(const std::string& directory) {
  struct statvfs answer {};  // stat() might be answered from the kernel's cache
  return ::statvfs(directory.c_str(), &answer) != 0 && errno == ENOTCONN;
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
  if (!resolved) throw Refusal(fmt::format("{}: {}", path, std::strerror(errno)));
  return resolved.get();
}

}  // namespace limaquota
