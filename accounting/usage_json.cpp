// `.usage/_all.json`
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
#include "accounting/usage_keys.hpp"
#include "accounting/usage_text.hpp"

namespace limaquota {
namespace {

std::string_view kind_of(const AccountFigures& account) {
  if (account.name == shared_account) return "shared";
  return disk_of_account(account.name) ? "disk" : "vm";
}

Json size_or_null(Bytes bytes) { return bytes.is_unlimited() ? Json(nullptr) : Json(bytes.count()); }

// What JSON cannot carry stands beside it, escaped.
Json named(const std::string& name) {
  Json json;
  json["name"] = name;
  if (!is_utf8(name)) json["name_escaped"] = escape_name(name);
  return json;
}

using Account = AccountFigures;
using Value = std::optional<Json>;  // nothing: no key
Value value_of(const Account& account, Bytes Account::*figure) { return size_or_null(account.*figure); }
Value value_of(const Account& account, uint64_t Account::*figure) { return Json(account.*figure); }
Value value_of(const Account& account, std::optional<uint64_t> Account::*figure) {
  return account.*figure ? Json(*(account.*figure)) : Json(nullptr);
}
Value value_of(const Account& account, std::optional<Bytes> Account::*figure) {
  return account.*figure ? Value(size_or_null(*(account.*figure))) : std::nullopt;
}
Value value_of(const Account& account, StateKey) { return Json(to_string(account.state)); }
Value value_of(const Account& account, LimitFileKey) { return Json(limit_file_of(account)); }

Json account_json(const AccountFigures& account) {
  Json json = named(account.name);
  json["kind"] = kind_of(account);
  for (const AccountKey& key : account_keys()) {
    Value value = std::visit([&](const auto& figure) { return value_of(account, figure); }, key.figure);
    if (value) json[std::string(key.key)] = std::move(*value);
  }
  json["disks"] = Json::array();
  for (const DiskFigures& disk : account.disks) {
    Json file = named(disk.name);
    file["format"] = disk.format;
    file["allocated"] = disk.allocated.count();
    file["virtual"] = disk.virtual_size.count();
    json["disks"].push_back(std::move(file));
  }
  return json;
}

}  // namespace

std::string snapshot_json(const Snapshot& snapshot) {
  const HostFigures& host = snapshot.host;
  Json json;
  for (const HostKey& key : host_keys()) json["host"][std::string(key.key)] = size_or_null(host.*key.figure);
  json["accounts"] = Json::array();
  for (const AccountFigures& account : snapshot.accounts) json["accounts"].push_back(account_json(account));
  return json_text(json, 1) + "\n";
}

}  // namespace limaquota
