#include "accounting/ledger.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "accounting/ledger_account.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {

Reservation::Reservation(Reservation&& other) noexcept
    : ledger_(std::exchange(other.ledger_, nullptr)), claims_(std::move(other.claims_)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    roll_back();
    ledger_ = std::exchange(other.ledger_, nullptr);
    claims_ = std::move(other.claims_);
  }
  return *this;
}

void Reservation::commit(const Change* changes, size_t count) {
  if (ledger_ == nullptr) return;
  const MutexLock lock(ledger_->mutex_);
  for (size_t i = 0; i < count; ++i) ledger_->apply_locked(changes[i]);
  ledger_->give_back(claims_);
  ledger_->changed();
  ledger_ = nullptr;
}

void Reservation::roll_back() {
  if (ledger_ == nullptr) return;
  const MutexLock lock(ledger_->mutex_);
  ledger_->give_back(claims_);
  ledger_->changed();
  ledger_ = nullptr;
}

Ledger::Ledger() = default;
Ledger::~Ledger() = default;

Ledger::Account& Ledger::at(AccountId id) { return *accounts_.at(id); }
const Ledger::Account& Ledger::at(AccountId id) const { return *accounts_.at(id); }
const Ledger::Account& Ledger::payer(const Account& account) const {
  return account.charged_to ? at(*account.charged_to) : account;
}
Ledger::Account& Ledger::payer(Account& account) {
  return account.charged_to ? at(*account.charged_to) : account;
}

AccountId Ledger::payer(AccountId account) const {
  const MutexLock lock(mutex_);
  return at(account).charged_to.value_or(account);
}

AccountId Ledger::open(std::string_view name) {
  const MutexLock lock(mutex_);
  if (const auto found = by_name_.find(name); found != by_name_.end()) return found->second;
  auto account = std::make_unique<Account>();
  account->id = static_cast<AccountId>(accounts_.size());
  account->name = std::string(name);
  const AccountId id = account->id;
  by_name_.emplace(account->name, id);
  accounts_.push_back(std::move(account));
  return id;
}

std::optional<AccountId> Ledger::find(std::string_view name) const {
  const MutexLock lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return std::nullopt;
  return found->second;
}

std::string Ledger::name(AccountId account) const {
  const MutexLock lock(mutex_);
  return at(account).name;
}

std::vector<std::string> Ledger::names() const {
  const MutexLock lock(mutex_);
  std::vector<std::string> names;
  names.reserve(by_name_.size());
  for (const auto& [name, id] : by_name_) names.push_back(name);
  return names;
}

// The id stays valid for files that are unlinked but open: only the name goes.
void Ledger::close(AccountId account) {
  const MutexLock lock(mutex_);
  const auto found = by_name_.find(at(account).name);
  if (found != by_name_.end() && found->second == account) by_name_.erase(found);
}

void Ledger::set_limits(AccountId account, const Limits& limits, LimitsFrom from) {
  const MutexLock lock(mutex_);
  Account& a = at(account);
  a.limits = limits;
  a.from_file = from == LimitsFrom::own_file;
  a.damaged = false;
  a.pressed_budget = false;
  changed();
}

void Ledger::set_damaged(AccountId account, bool damaged) {
  const MutexLock lock(mutex_);
  at(account).damaged = damaged;
}

void Ledger::set_outside(AccountId account, bool outside) {
  const MutexLock lock(mutex_);
  at(account).outside = outside;
}

void Ledger::set_virtual_fallback(AccountId account, Bytes planned) {
  const MutexLock lock(mutex_);
  at(account).planned_virtual = planned;
}

void Ledger::charge_to(AccountId disk, std::optional<AccountId> vm) {
  const MutexLock lock(mutex_);
  Account& d = at(disk);
  if (d.charged_to == vm) return;
  if (d.charged_to) {
    Account& old = at(*d.charged_to);
    old.attached_used -= d.own_used;
    old.attached_in_flight -= d.own_in_flight;
    old.attached_slack -= d.own_slack;
    std::erase(old.attached, disk);
  }
  d.charged_to = vm;
  if (vm) {
    Account& now = at(*vm);
    now.attached_used += d.own_used;
    now.attached_in_flight += d.own_in_flight;
    now.attached_slack += d.own_slack;
    now.attached.push_back(disk);
    now.peak = std::max(now.peak, now.used());
    now.growth.start(now.used());
  }
  changed();
}

void Ledger::set_time(int64_t unix_seconds) {
  const MutexLock lock(mutex_);
  now_ = unix_seconds;
}

void Ledger::set_host_reserve(Bytes reserve) {
  const MutexLock lock(mutex_);
  host_reserve_ = reserve;
  changed();
}

Bytes Ledger::host_reserve() const {
  const MutexLock lock(mutex_);
  return host_reserve_;
}

HostSample Ledger::before_host_sample() const {
  const MutexLock lock(mutex_);
  return {Bytes::unlimited(), allocated_};
}

Bytes Ledger::line_bytes(const Account& account, Line line) const {
  if (line == Line::exempt) return Bytes::unlimited();
  const Bytes limit = account.limits.effective_limit(now_);
  if (limit.is_unlimited() || line == Line::moving) return limit;
  // A tiny limit keeps an eighth in hand, so that something can be written at all.
  const Bytes control = limit - std::min(hand, Bytes(limit.count() / 8));
  if (line == Line::control) return control;
  return std::min(control, minus_or_zero(limit, account.limits.effective_control_reserve(now_)));
}

Bytes Ledger::host_room(const HostSample& host, Line line) const {
  if (host.free.is_unlimited()) return Bytes::unlimited();
  const Bytes reserve = line == Line::disk ? host_reserve_ : Bytes(host_reserve_.count() / 4);
  const Bytes gone = plus_or_unlimited(outstanding_, Bytes(allocated_ - host.allocated_before));
  return minus_or_zero(host.free, plus_or_unlimited(gone, reserve));
}

Reserved Ledger::reserve(const Claims& claims, Line line, const HostSample& host) {
  const MutexLock lock(mutex_);
  Bytes sum;
  for (const Claim& claim : claims) sum = plus_or_unlimited(sum, claim.bytes);
  const Bytes host_left = host_room(host, line);
  Bytes room = host_left;
  bool fits = sum <= host_left;
  RefusedBy by = fits ? RefusedBy::budget : RefusedBy::host;
  bool in_flight = false;
  for (const Claim& claim : claims) {
    const Account& account = payer(at(claim.account));
    // Two claims on one payer must fit together.
    Bytes wanted;
    for (const Claim& other : claims) {
      if (&payer(at(other.account)) == &account) wanted = plus_or_unlimited(wanted, other.bytes);
    }
    const Bytes limit = line_bytes(account, line);
    const Bytes left =
        limit.is_unlimited() ? limit : minus_or_zero(limit, account.used() + account.reserved());
    if (wanted > left) {
      fits = false;
      by = RefusedBy::budget;
    }
    room = std::min(room, left);
    in_flight = in_flight || account.in_flight() > Bytes(0);
  }
  if (!fits) {
    if (by == RefusedBy::host) in_flight = outstanding_ > Bytes(0);
    return {std::nullopt, {room, in_flight, by}};
  }
  for (const Claim& claim : claims) {
    Account& own = at(claim.account);
    own.own_in_flight += claim.bytes;
    if (own.charged_to) at(*own.charged_to).attached_in_flight += claim.bytes;
  }
  outstanding_ += sum;
  Reservation reservation;
  reservation.ledger_ = this;
  reservation.claims_ = claims;
  return {std::move(reservation), {}};
}

void Ledger::give_back(const Claims& claims) {
  for (const Claim& claim : claims) {
    Account& own = at(claim.account);
    own.own_in_flight -= claim.bytes;
    if (own.charged_to) at(*own.charged_to).attached_in_flight -= claim.bytes;
    outstanding_ -= claim.bytes;
  }
}

void Ledger::changed() {
  ++changes_;
  if (waiters_ > 0) condition_.notify_all();
}

void Ledger::wait_for_change(unsigned milliseconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  const MutexLock lock(mutex_);
  const uint64_t before = changes_;
  ++waiters_;
  while (changes_ == before && condition_.wait_until(mutex_, until)) continue;
  --waiters_;
}

void Ledger::apply_locked(const Change& change) {
  Account& own = at(change.account);
  const auto replace = [](Bytes& figure, Bytes before, Bytes after) { figure = figure + after - before; };
  replace(own.own_used, change.charge_before, change.charge_after);
  replace(own.own_slack, change.slack_before, change.slack_after);
  outstanding_ = outstanding_ + change.slack_after - change.slack_before;
  if (own.charged_to) {
    Account& vm = at(*own.charged_to);
    replace(vm.attached_used, change.charge_before, change.charge_after);
    replace(vm.attached_slack, change.slack_before, change.slack_after);
  }
  if (change.charge_after > change.charge_before) {
    allocated_ += (change.charge_after - change.charge_before).count();
    own.peak = std::max(own.peak, own.used());
    Account& pays = payer(own);
    pays.peak = std::max(pays.peak, pays.used());
  }
  // Something was freed: whether the account is full shows at the next write.
  if (change.charge_after < change.charge_before) payer(own).pressed_budget = false;
  if (change.disk != 0) {
    if (const auto disk = disks_.find(change.disk); disk != disks_.end()) {
      disk->second.allocated = change.charge_after;
      ImageHeader& header = disk->second.header;
      if (header.format == ImageFormat::raw) header.virtual_size = change.disk_size;
    }
  }
}

void Ledger::apply(const Change* changes, size_t count) {
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < count; ++i) apply_locked(changes[i]);
  changed();
}

void Ledger::note_refusal(AccountId account, Bytes bytes, RefusedBy by) {
  const MutexLock lock(mutex_);
  Account& pays = payer(at(account));
  ++pays.refused_writes;
  pays.refused_bytes += bytes.count();
  (by == RefusedBy::host ? pays.pressed_host : pays.pressed_budget) = true;
}

void Ledger::move(AccountId from, AccountId to, Bytes charge, Bytes slack) {
  if (from == to) return;
  const MutexLock lock(mutex_);
  apply_locked({from, charge, Bytes(0), slack, Bytes(0)});
  apply_locked({to, Bytes(0), charge, Bytes(0), slack});
  allocated_ -= charge.count();  // nothing was allocated
  at(to).growth.start(at(to).used());
  changed();
}

void Ledger::put_disk(uint64_t inode, const DiskRecord& record) {
  const MutexLock lock(mutex_);
  drop_disk_locked(inode);
  disks_[inode] = record;
  at(record.account).disks.push_back(inode);
}

void Ledger::drop_disk_locked(uint64_t inode) {
  const auto found = disks_.find(inode);
  if (found == disks_.end()) return;
  std::erase(at(found->second.account).disks, inode);
  disks_.erase(found);
}

void Ledger::drop_disk(uint64_t inode) {
  const MutexLock lock(mutex_);
  drop_disk_locked(inode);
}

void Ledger::set_disk_header(uint64_t inode, const ImageHeader& header) {
  const MutexLock lock(mutex_);
  if (const auto found = disks_.find(inode); found != disks_.end()) found->second.header = header;
}

void Ledger::tick(double seconds_since_last) {
  const MutexLock lock(mutex_);
  for (const auto& account : accounts_) {
    if (account) account->growth.tick(account->used(), seconds_since_last);
  }
}

}  // namespace limaquota
