#include "accounting/usage_text.hpp"

#include <fmt/core.h>

#include "accounting/escape.hpp"

namespace limaquota {
namespace {

std::string size_or_max(Bytes bytes) { return bytes.is_unlimited() ? "max" : std::to_string(bytes.count()); }

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
  text += fmt::format("limit {}\nused {}\nreserved {}\n", size_or_max(account.limit), account.used.count(),
                      account.reserved.count());
  text += fmt::format("available {}\nwritable {}\npeak {}\nvirtual {}\n", size_or_max(account.available),
                      size_or_max(account.writable), account.peak.count(), account.virtual_size.count());
  text += fmt::format("state {}\nrefused_writes {}\nrefused_bytes {}\n", to_string(account.state),
                      account.refused_writes, account.refused_bytes);
  text += fmt::format("growth_per_second {}\nseconds_to_full {}\n", account.growth_per_second,
                      account.seconds_to_full ? std::to_string(*account.seconds_to_full) : "max");
  text +=
      fmt::format("disk_line {}\nlimit_file {}\n", size_or_max(account.disk_line), limit_file_of(account));
  if (account.loan) text += fmt::format("loan {}\n", account.loan->count());
  for (const DiskFigures& disk : account.disks) {
    text += fmt::format("disk name={} format={} allocated={} virtual={}\n", escape_name(disk.name),
                        escape_name(disk.format), disk.allocated.count(), disk.virtual_size.count());
  }
  return text;
}

std::string host_text(const HostFigures& host) {
  return fmt::format("free {}\nreserve {}\nused {}\nlimits {}\nworst_case {}\novercommit {}\n",
                     size_or_max(host.free), size_or_max(host.reserve), size_or_max(host.used),
                     size_or_max(host.limits), size_or_max(host.worst_case), size_or_max(host.overcommit));
}

}  // namespace limaquota
