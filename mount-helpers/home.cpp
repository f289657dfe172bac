#include "mount-helpers/home.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"

namespace limaquota {
namespace {

using Json = nlohmann::ordered_json;

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
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return fmt::format("{0} is not mounted: run \"limaquota mount {0}\" first", home);
    case ENOTCONN:
      return fmt::format("the daemon of {0} is gone: run \"limaquota umount {0}\", then mount it again",
                         home);
    default:
      return fmt::format("cannot read {}: {}", usage_path(home, name), std::strerror(error));
  }
}

// mountinfo writes blanks, newlines and backslashes as \ooo.
std::string unescape_mountinfo(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 3)), nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
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

std::string read_usage(const std::string& home, const std::string& name) {
  errno = 0;
  std::ifstream file(usage_path(home, name), std::ios::binary);
  if (!file) throw Refusal(why_unreadable(home, name, errno));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw Refusal(why_unreadable(home, name, EIO));
  return text;
}

Report read_report(const std::string& home) {
  const std::string name = "_all.json";
  const std::string text = read_usage(home, name);
  Report report;
  try {
    report.json = Json::parse(text);
    report.snapshot.host = host_from(report.json.at("host"));
    for (const Json& account : report.json.at("accounts")) {
      report.snapshot.accounts.push_back(account_from(account));
    }
  } catch (const Json::exception& error) {
    throw Refusal(fmt::format("{} is not what limaquota writes: {}", usage_path(home, name), error.what()));
  }
  return report;
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
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // "36 35 98:0 /root /mountpoint rw,... optional fields - type source options"
    std::istringstream words(line);
    std::string skipped, mountpoint;
    words >> skipped >> skipped >> skipped >> skipped >> mountpoint;
    const size_t separator = line.find(" - ");
    if (separator == std::string::npos || unescape_mountinfo(mountpoint) != directory) continue;
    if (line.compare(separator + 3, 15, "fuse.limaquota ") == 0) return true;
  }
  return false;
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
  if (!resolved) throw Refusal(fmt::format("{}: {}", path, std::strerror(errno)));
  return resolved.get();
}

}  // namespace limaquota
