#include "mount-helpers/accounts/status_table.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"

namespace limaquota {
namespace {

enum Column { name, used, limit, bar, percent, reclaimable, growth, time_to_full, state, columns };
using Row = std::array<std::string, columns>;

constexpr size_t bar_cells = 16;
constexpr std::string_view colour_off = "\033[0m";

std::string_view colour_of(AccountState state) {
  switch (state) {
    case AccountState::ok:
      return "\033[32m";
    case AccountState::warn:
      return "\033[33m";
    case AccountState::outside:
      return "\033[2m";
    default:
      return "\033[31m";
  }
}

// used / limit; nearness to the limit.
double fill(const AccountFigures& account) {
  if (account.limit.is_unlimited()) return -1;
  if (account.limit.count() == 0) return account.used.count() == 0 ? 1 : HUGE_VAL;
  return static_cast<double>(account.used.count()) / static_cast<double>(account.limit.count());
}

std::string bar_of(const AccountFigures& account, TableStyle style) {
  if (account.limit.is_unlimited()) return "";
  return bar_text(fill(account), bar_cells, style.unicode);
}

std::string percent_of(const AccountFigures& account) {
  if (account.limit.is_unlimited()) return "";
  const double share = fill(account) * 100;
  return share > 999 ? ">999 %" : fmt::format("{} %", static_cast<unsigned>(share));
}

std::string reclaimable_of(const AccountFigures& account, const Insides& insides) {
  if (insides.empty()) return "";
  const auto found = insides.find(account.name);
  return found == insides.end() || !found->second ? "-" : format_size(found->second->reclaimable);
}

Row row_of(const AccountFigures& account, const Insides& insides, TableStyle style) {
  const uint64_t rate = account.growth_per_second;
  return {escape_name(account.name),
          format_size(account.used),
          format_size(account.limit),
          bar_of(account, style),
          percent_of(account),
          reclaimable_of(account, insides),
          rate == 0 ? "-" : format_size(Bytes(rate)) + "/s",
          account.seconds_to_full ? format_duration(*account.seconds_to_full) : "-",
          std::string(to_string(account.state))};
}

constexpr bool is_figure(size_t column) {
  return column == used || column == limit || column == percent || column == reclaimable;
}

// The rows beneath a heading; figures are aligned to the right. The bar and the state are in the state's
// colour.
std::string table(const std::vector<const AccountFigures*>& accounts, const Insides& insides,
                  TableStyle style) {
  std::vector<Row> rows = {{"NAME", "USED", "LIMIT", "", "", insides.empty() ? "" : "RECLAIMABLE", "GROWTH",
                            "TIME TO FULL", "STATE"}};
  for (const AccountFigures* account : accounts) rows.push_back(row_of(*account, insides, style));
  std::array<size_t, columns> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < columns; ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < columns; ++i) {
      if (widths[i] == 0) continue;  // no account has a limit: no bar; no VM runs: nothing reclaimable
      const std::string padding(widths[i] - columns_of(rows[r][i]), ' ');
      const bool coloured = style.colour && r > 0 && (i == bar || i == state);
      const std::string cell =
          coloured ? fmt::format("{}{}{}", colour_of(accounts[r - 1]->state), rows[r][i], colour_off)
                   : rows[r][i];
      if (!line.empty()) line += "  ";
      line += is_figure(i) ? padding + cell : cell + (i == state ? "" : padding);
    }
    text += line + "\n";
  }
  return text;
}

std::string host_line(const HostFigures& host) {
  std::string text = fmt::format("Host: {} free, of which {} are the reserve; used by all {}; ",
                                 format_size(host.free), format_size(host.reserve), format_size(host.used));
  if (host.overcommit.is_unlimited()) {
    return text + "overcommit unlimited: what the VMs may still grow by is not bounded\n";
  }
  if (host.overcommit.count() > 0) {
    return text + fmt::format("overcommit {}: the host may be full before the limits are met\n",
                              format_size(host.overcommit));
  }
  return text + "overcommit 0: all limits fit\n";
}

std::string unlimited_line(const Snapshot& snapshot) {
  std::string names;
  for (const AccountFigures& account : snapshot.accounts) {
    const bool limited = !account.limit.is_unlimited() || account.state == AccountState::outside;
    if (limited || !is_vm_name(account.name)) continue;
    names += (names.empty() ? "" : ", ") + escape_name(account.name);
  }
  if (names.empty()) return "";
  return fmt::format("Without a limit: {} (limaquota set NAME SIZE)\n", names);
}

}  // namespace

std::string format_duration(uint64_t seconds) {
  const uint64_t minutes = seconds / 60, hours = minutes / 60, days = hours / 24;
  if (seconds < 60) return fmt::format("{} s", seconds);
  if (minutes < 60) return fmt::format("{} min", minutes);
  if (hours < 24)
    return minutes % 60 == 0 ? fmt::format("{} h", hours) : fmt::format("{} h {} min", hours, minutes % 60);
  if (days <= 365) return fmt::format("{} day{}", days, days == 1 ? "" : "s");
  return "over a year";
}

std::string status_table(const Snapshot& snapshot, const Insides& insides, TableStyle style) {
  std::vector<const AccountFigures*> accounts;
  for (const AccountFigures& account : snapshot.accounts) accounts.push_back(&account);
  std::stable_sort(accounts.begin(), accounts.end(), [](const AccountFigures* a, const AccountFigures* b) {
    const double fill_a = fill(*a), fill_b = fill(*b);
    return fill_a != fill_b ? fill_a > fill_b : a->used > b->used;
  });
  return table(accounts, insides, style) + "\n" + unlimited_line(snapshot) + host_line(snapshot.host);
}

std::string savings_text(const Savings& savings, const Insides& insides) {
  std::string text;
  Bytes inside;
  for (const auto& [vm, answer] : insides) {
    if (answer) inside = plus_or_unlimited(inside, answer->reclaimable);
  }
  if (inside.count() > 0) {
    text = fmt::format("Could be freed, {}: reclaimable inside VMs that run (limaquota reclaim NAME)\n",
                       format_size(inside));
  }
  for (const FreeableKind kind : {FreeableKind::stopped, FreeableKind::temporary, FreeableKind::detached}) {
    std::string names;
    Bytes sum;
    for (const Freeable& item : savings.freeable) {
      if (item.kind != kind) continue;
      names +=
          fmt::format("{}{} {}{}", names.empty() ? "" : ", ", escape_name(item.name), format_size(item.bytes),
                      kind == FreeableKind::temporary && item.running ? " (running)" : "");
      sum += item.bytes;
    }
    if (names.empty()) continue;
    const std::string_view what = kind == FreeableKind::stopped ? "stopped VMs (limactl delete NAME)"
                                  : kind == FreeableKind::temporary
                                      ? "temporary VMs (limactl delete NAME)"
                                      : "detached disks (limactl disk delete NAME)";
    text += fmt::format("Could be freed, {}: {}: {}\n", format_size(sum), what, names);
  }
  std::string names;
  for (const UnusedLimit& limit : savings.unused_limits) {
    names += fmt::format("{}{} {}", names.empty() ? "" : ", ", escape_name(limit.name),
                         limit.limit ? format_size(*limit.limit) : "damaged");
  }
  if (!names.empty()) text += fmt::format("Limits without a VM (rm .quota/NAME): {}\n", names);
  return text;
}

std::string account_status(const AccountFigures& account, TableStyle style) {
  std::string text = table({&account}, {}, style);
  for (const DiskFigures& disk : account.disks) {
    text +=
        fmt::format("disk {} ({}): {} allocated of {} virtual\n", escape_name(disk.name),
                    escape_name(disk.format), format_size(disk.allocated), format_size(disk.virtual_size));
  }
  if (!account.limit.is_unlimited()) {
    text += fmt::format("a disk may still take {}; disks stop at {}, control files at {}\n",
                        format_size(account.writable), format_size(account.disk_line),
                        format_size(account.limit));
  }
  if (account.state == AccountState::damaged) {
    text += "its limit file cannot be read: the last good or the default limit holds; set the limit again\n";
  }
  if (account.loan) text += fmt::format("the limit includes a loan of {}\n", format_size(*account.loan));
  text += fmt::format("peak since the mount: {}; refused: {} writes, {}\n", format_size(account.peak),
                      account.refused_writes, format_size(Bytes(account.refused_bytes)));
  return text;
}

}  // namespace limaquota
