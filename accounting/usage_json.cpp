// `.usage/_all.json`
#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
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

Json account_json(const AccountFigures& account) {
  Json json = named(account.name);
  json["kind"] = kind_of(account);
  json["limit"] = size_or_null(account.limit);
  json["used"] = account.used.count();
  json["reserved"] = account.reserved.count();
  json["available"] = size_or_null(account.available);
  json["writable"] = size_or_null(account.writable);
  json["peak"] = account.peak.count();
  json["virtual"] = account.virtual_size.count();
  json["state"] = to_string(account.state);
  json["refused_writes"] = account.refused_writes;
  json["refused_bytes"] = account.refused_bytes;
  json["growth_per_second"] = account.growth_per_second;
  json["seconds_to_full"] = account.seconds_to_full ? Json(*account.seconds_to_full) : Json(nullptr);
  json["disk_line"] = size_or_null(account.disk_line);
  json["limit_file"] = limit_file_of(account);
  if (account.loan) json["loan"] = account.loan->count();
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
  json["host"] = {{"free", size_or_null(host.free)},
                  {"reserve", size_or_null(host.reserve)},
                  {"used", size_or_null(host.used)},
                  {"limits", size_or_null(host.limits)},
                  {"worst_case", size_or_null(host.worst_case)},
                  {"overcommit", size_or_null(host.overcommit)}};
  json["accounts"] = Json::array();
  for (const AccountFigures& account : snapshot.accounts) json["accounts"].push_back(account_json(account));
  return json_text(json, 1) + "\n";
}

}  // namespace limaquota
