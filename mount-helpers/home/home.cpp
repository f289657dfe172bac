#include "mount-helpers/home/home.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
#include "accounting/names.hpp"
#include "accounting/usage_keys.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {
namespace {

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
  for (const HostKey& key : host_keys()) host.*key.figure = bytes_or_max(json.at(std::string(key.key)));
  return host;
}

std::string name_in(const Json& json) {
  const auto escaped = json.find("name_escaped");
  return escaped == json.end() ? json.at("name").get<std::string>()
                               : unescape_name(escaped->get<std::string>());
}

using Account = AccountFigures;
void take(Account& account, Bytes Account::*figure, const Json& value) {
  account.*figure = bytes_or_max(value);
}
void take(Account& account, uint64_t Account::*figure, const Json& value) {
  account.*figure = value.get<uint64_t>();
}
void take(Account& account, std::optional<uint64_t> Account::*figure, const Json& value) {
  if (!value.is_null()) account.*figure = value.get<uint64_t>();
}
void take(Account& account, std::optional<Bytes> Account::*figure, const Json& value) {
  if (!value.is_null()) account.*figure = bytes_or_max(value);
}
void take(Account& account, StateKey, const Json& value) { account.state = state_of(value); }
void take(Account& account, LimitFileKey, const Json& value) {
  account.has_limit_file = value != "no";  // or yes, damaged
}

AccountFigures account_from(const Json& json) {
  AccountFigures account;
  account.name = name_in(json);
  for (const AccountKey& key : account_keys()) {
    const std::string name(key.key);
    const bool may_be_missing = std::holds_alternative<std::optional<Bytes> Account::*>(key.figure);
    if (may_be_missing && !json.contains(name)) continue;
    std::visit([&](const auto& figure) { take(account, figure, json.at(name)); }, key.figure);
  }
  for (const Json& disk : json.at("disks")) {
    account.disks.push_back({name_in(disk), disk.at("format"), bytes_or_max(disk.at("allocated")),
                             bytes_or_max(disk.at("virtual"))});
  }
  return account;
}

std::string usage_path(const std::string& home, const std::string& name) {
  return fmt::format("{}/.usage/{}", home, name);
}

std::string why_unreadable(const std::string& home, const std::string& path, int error) {
  if (error == ENOTCONN) {
    return fmt::format("the daemon of {} is gone: run \"limaquota umount {}\", then mount it again",
                       escape_words(home), shell_quoted(home));
  }
  return fmt::format("cannot read {}: {}", path, std::strerror(error));
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

Option add_home_option(Command& command, std::string& home) {
  return command.text("--home", home, "The Lima home; else $LIMA_HOME, else ~/.lima").shown_as("DIR");
}

Report parse_report(const std::string& text, const std::string& origin) {
  Report report{text, {}, {}};
  try {
    const Json json = parse_json(text);
    report.snapshot.host = host_from(json.at("host"));
    for (const Json& account : json.at("accounts")) {
      report.snapshot.accounts.push_back(account_from(account));
    }
  } catch (const Json::exception& error) {
    throw Refusal(fmt::format("{} is not what limaquota writes: {}", origin, error.what()));
  }
  return report;
}

UsageReader::UsageReader(std::string home, const std::string& name)
    : home_(std::move(home)), path_(usage_path(home_, name)) {}

std::optional<std::string> UsageReader::read_if_mounted(const std::function<bool()>& keep_on) {
  if (!reading_) reading_.emplace(path_);
  if (!reading_->wait(daemon_deadline, keep_on)) throw Refusal(hung_text(home_));
  const int error = reading_->error();
  std::string text = reading_->text();
  reading_.reset();
  if (error == ENOENT || error == ENOTDIR) return std::nullopt;
  if (error != 0) throw Refusal(why_unreadable(home_, path_, error));
  return text;
}

std::string UsageReader::read(const std::function<bool()>& keep_on) {
  if (auto text = read_if_mounted(keep_on)) return std::move(*text);
  throw Refusal(fmt::format("{} is not mounted: run \"limaquota mount {}\" first", escape_words(home_),
                            shell_quoted(home_)));
}

std::string read_usage(const std::string& home, const std::string& name) {
  return UsageReader(home, name).read();
}

ReportReader::ReportReader(const std::string& home) : text_(home, report_name) {}

Report ReportReader::read(const std::function<bool()>& keep_on) {
  return parse_report(text_.read(keep_on), text_.path());
}

Report read_report(const std::string& home) { return ReportReader(home).read(); }

std::optional<Report> read_report_if_mounted(const std::string& home) {
  const auto text = UsageReader(home, report_name).read_if_mounted();
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

bool is_disk(const AccountFigures& account) { return disk_of_account(account.name).has_value(); }

std::string names_of(const Snapshot& snapshot, bool (*wanted)(const AccountFigures&)) {
  std::string names;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!wanted(account)) continue;
    if (!names.empty()) names += ", ";
    names += escape_name(account.name);
  }
  return names.empty() ? "none" : names;
}

}  // namespace limaquota
