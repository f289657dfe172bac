// The figures that the ledger shows.
#include <algorithm>
#include <map>

#include "accounting/layout.hpp"
#include "accounting/ledger_account.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {
namespace {
// Below this, an account that was refused counts as full: the last blocks may be too few for any write.
constexpr Bytes pressed_below = Bytes(1024 * 1024);
}  // namespace

void Ledger::add_disks(const Account& account, AccountFigures& f) const {
  const auto add = [&](const Account& owner) REQUIRES(mutex_) {
    for (const uint64_t inode : owner.disks) {
      const DiskRecord& disk = disks_.at(inode);
      f.disks.push_back({&owner == &account ? disk.name : owner.name + "/" + disk.name,
                         std::string(to_string(disk.header.format)), disk.allocated,
                         disk.header.virtual_size});
      f.virtual_size = plus_or_unlimited(f.virtual_size, disk.header.virtual_size);
    }
  };
  add(account);
  for (const AccountId id : account.attached) add(at(id));
  std::sort(f.disks.begin(), f.disks.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  if (f.disks.empty()) f.virtual_size = account.planned_virtual;
}

AccountState Ledger::state_of(const Account& account, const AccountFigures& f, Bytes budget,
                              Bytes host) const {
  const Account& pays = payer(account);
  const auto pressed = [](bool was_refused, Bytes left) {
    return left < smallest_write || (was_refused && left < pressed_below);
  };
  const unsigned warn = account.limits.warn_percent.value_or(default_warn_percent);
  const auto at_warn = [&] {  // used >= warn % of the disk line, without overflow
    return !f.disk_line.is_unlimited() &&
           static_cast<double>(f.used.count()) >= static_cast<double>(f.disk_line.count()) / 100.0 * warn;
  };
  if (account.outside) return AccountState::outside;
  if (f.used > f.limit) return AccountState::over;
  if (pressed(pays.pressed_budget, budget)) return AccountState::full;
  if (pressed(pays.pressed_host, host)) return AccountState::host_full;
  if (account.damaged) return AccountState::damaged;
  return at_warn() ? AccountState::warn : AccountState::ok;
}

AccountFigures Ledger::figures_locked(const Account& account, Bytes host_free) const {
  AccountFigures f;
  const Account& pays = payer(account);
  f.name = account.name;
  f.used = account.used();
  f.reserved = account.reserved();
  f.peak = account.peak;
  f.refused_writes = account.refused_writes;
  f.refused_bytes = account.refused_bytes;
  f.growth_per_second = account.growth.bytes_per_second();
  f.has_limit_file = account.from_file;
  if (account.charged_to) f.charged_to = pays.name;
  const bool attached = account.charged_to.has_value();
  if (!attached) {
    f.limit = account.limits.effective_limit(now_);
    f.disk_line = line_bytes(account, Line::disk);
    if (account.limits.loan && now_ < account.limits.loan->until) f.loan = account.limits.loan->amount;
  }
  if (!f.limit.is_unlimited()) f.available = minus_or_zero(f.limit, f.used + f.reserved);
  const Bytes line = line_bytes(pays, Line::disk);
  const Bytes budget = line.is_unlimited() ? line : minus_or_zero(line, pays.used() + pays.reserved());
  const Bytes host = minus_or_zero(host_free, plus_or_unlimited(host_reserve_, outstanding_));
  f.writable = std::min(budget, host);
  if (f.growth_per_second > 0 && !f.writable.is_unlimited()) {
    f.seconds_to_full = f.writable.count() / f.growth_per_second;
  }
  add_disks(account, f);
  f.state = state_of(account, f, budget, host);
  return f;
}

HostFigures Ledger::host_locked(Bytes host_free) const {
  HostFigures host;
  host.free = host_free;
  host.reserve = host_reserve_;
  std::map<AccountId, Bytes> virtual_sizes;
  for (const auto& [inode, disk] : disks_) {
    Bytes& sum = virtual_sizes[payer(at(disk.account)).id];
    sum = plus_or_unlimited(sum, disk.header.virtual_size);
  }
  for (const auto& [name, id] : by_name_) {
    const Account& account = at(id);
    host.used += account.own_used;
    if (account.charged_to) continue;
    const Bytes limit = account.limits.effective_limit(now_);
    if (name != shared_account) host.limits = plus_or_unlimited(host.limits, limit);
    const auto found = virtual_sizes.find(id);
    const Bytes size = found != virtual_sizes.end() ? found->second : account.planned_virtual;
    host.worst_case =
        plus_or_unlimited(host.worst_case, minus_or_zero(std::min(limit, size), account.used()));
  }
  host.overcommit = minus_or_zero(host.worst_case, minus_or_zero(host_free, host_reserve_));
  return host;
}

Snapshot Ledger::snapshot(Bytes host_free) const {
  const MutexLock lock(mutex_);
  Snapshot snapshot;
  snapshot.host = host_locked(host_free);
  const auto add = [&](auto&& wanted) REQUIRES(mutex_) {
    for (const auto& [name, id] : by_name_) {
      if (wanted(name)) snapshot.accounts.push_back(figures_locked(at(id), host_free));
    }
  };
  add([](std::string_view name) { return is_vm_name(name); });
  add([](std::string_view name) { return name.starts_with(disks_directory); });
  add([](std::string_view name) { return name == shared_account; });
  return snapshot;
}

std::optional<AccountFigures> Ledger::figures(std::string_view name, Bytes host_free) const {
  const MutexLock lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return std::nullopt;
  return figures_locked(at(found->second), host_free);
}

HostFigures Ledger::host_figures(Bytes host_free) const {
  const MutexLock lock(mutex_);
  return host_locked(host_free);
}

Ledger::Room Ledger::room(AccountId account, Bytes host_free) const {
  const MutexLock lock(mutex_);
  const Account& pays = payer(at(account));
  const Bytes line = line_bytes(pays, Line::disk);
  const Bytes budget = line.is_unlimited() ? line : minus_or_zero(line, pays.used() + pays.reserved());
  const Bytes host = minus_or_zero(host_free, plus_or_unlimited(host_reserve_, outstanding_));
  return {line, std::min(budget, host), pays.used()};
}

std::optional<Ledger::Memory> Ledger::memory(AccountId account) const {
  const MutexLock lock(mutex_);
  if (account >= accounts_.size() || !accounts_[account]) return std::nullopt;
  const Account& of = *accounts_[account];
  return Memory{of.peak, of.refused_writes, of.refused_bytes, of.pressed_budget, of.pressed_host};
}

void Ledger::remember(AccountId account, const Memory& memory) {
  const MutexLock lock(mutex_);
  Account& of = at(account);
  of.peak = std::max(of.peak, memory.peak);
  of.refused_writes += memory.refused_writes;
  of.refused_bytes += memory.refused_bytes;
  of.pressed_budget = memory.pressed_budget;
  of.pressed_host = memory.pressed_host;
}

size_t Ledger::ids() const {
  const MutexLock lock(mutex_);
  return accounts_.size();
}

}  // namespace limaquota
