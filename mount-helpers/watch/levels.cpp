#include "mount-helpers/watch/levels.hpp"

#include <algorithm>

#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

constexpr double clearly_below = 0.02;     // of the disk line
constexpr uint64_t clearly_writable = 50;  // a part of the disk line: 2 %
constexpr Bytes host_clearly_writable = 256_MiB;

double share_of_line(const AccountFigures& account) {
  if (account.disk_line.is_unlimited()) return 0;
  if (account.disk_line.count() == 0) return 1;
  return static_cast<double>(account.used.count()) / static_cast<double>(account.disk_line.count());
}

}  // namespace

void WatchLevels::look(const AccountFigures& account, const HostFigures& host, std::vector<Event>& events) {
  Level& level = levels_[account.name];
  const bool full = account.state == AccountState::full || account.state == AccountState::over;
  const bool warn = account.state == AccountState::warn;
  const double share = share_of_line(account);
  if (full && !level.filled) {
    events.push_back(make_event(EventKind::full, account, host));
    if (!level.warned) level.lowest = share;
    level.filled = level.warned = true;  // who is told of full needs no warning
  } else if (warn && !level.warned) {
    events.push_back(make_event(EventKind::warn, account, host));
    level.warned = true;
    level.lowest = share;
  }
  const bool unlimited = account.disk_line.is_unlimited();
  if (!full && (unlimited || account.writable.count() >= account.disk_line.count() / clearly_writable)) {
    level.filled = false;
  }
  if (full || warn) {
    level.lowest = std::min(level.lowest, share);
  } else if (share <= level.lowest - clearly_below) {
    level.warned = false;
  }
}

std::vector<Event> WatchLevels::look(const Snapshot& snapshot) {
  std::vector<Event> events;
  std::erase_if(levels_, [&](const auto& entry) { return find_account(snapshot, entry.first) == nullptr; });
  bool host_full = false;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_vm(account)) continue;
    look(account, snapshot.host, events);
    host_full = host_full || account.state == AccountState::host_full;
  }
  if (host_full && !host_filled_) {
    events.push_back(make_host_full(snapshot.host));
    host_filled_ = true;
  } else if (!host_full &&
             minus_or_zero(snapshot.host.free, snapshot.host.reserve) >= host_clearly_writable) {
    host_filled_ = false;
  }
  return events;
}

}  // namespace limaquota
