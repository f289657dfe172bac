#include "accounting/usage_text.hpp"

#include <fmt/core.h>

#include <optional>
#include <string>
#include <variant>

#include "accounting/escape.hpp"
#include "accounting/usage_keys.hpp"

namespace limaquota {
namespace {

std::string size_or_max(Bytes bytes) { return bytes.is_unlimited() ? "max" : std::to_string(bytes.count()); }

using Value = std::optional<std::string>;  // nothing: no line
using Account = AccountFigures;
Value value_of(const Account& account, Bytes Account::*figure) { return size_or_max(account.*figure); }
Value value_of(const Account& account, uint64_t Account::*figure) { return std::to_string(account.*figure); }
Value value_of(const Account& account, std::optional<uint64_t> Account::*figure) {
  return account.*figure ? std::to_string(*(account.*figure)) : "max";
}
Value value_of(const Account& account, std::optional<Bytes> Account::*figure) {
  return account.*figure ? Value(size_or_max(*(account.*figure))) : std::nullopt;
}
Value value_of(const Account& account, StateKey) { return std::string(to_string(account.state)); }
Value value_of(const Account& account, LimitFileKey) { return std::string(limit_file_of(account)); }

}  // namespace

std::string_view to_string(AccountState state) {
  switch (state) {
    case AccountState::ok:
      return "ok";
    case AccountState::warn:
      return "warn";
    case AccountState::full:
      return "full";
    case AccountState::host_full:
      return "host_full";
    case AccountState::over:
      return "over";
    case AccountState::damaged:
      return "damaged";
    case AccountState::outside:
      return "outside";
  }
  return "ok";
}

std::string_view limit_file_of(const AccountFigures& account) {
  if (account.state == AccountState::damaged) return "damaged";
  return account.has_limit_file ? "yes" : "no";
}

std::string usage_text(const AccountFigures& account) {
  std::string text;
  for (const AccountKey& key : account_keys()) {
    const Value value = std::visit([&](const auto& figure) { return value_of(account, figure); }, key.figure);
    if (value) text += fmt::format("{} {}\n", key.key, *value);
  }
  for (const DiskFigures& disk : account.disks) {
    text += fmt::format("disk name={} format={} allocated={} virtual={}\n", escape_name(disk.name),
                        escape_name(disk.format), disk.allocated.count(), disk.virtual_size.count());
  }
  return text;
}

std::string host_text(const HostFigures& host) {
  std::string text;
  for (const HostKey& key : host_keys())
    text += fmt::format("{} {}\n", key.key, size_or_max(host.*key.figure));
  return text;
}

}  // namespace limaquota
