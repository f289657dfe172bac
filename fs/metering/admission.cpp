#include "fs/metering/admission.hpp"

#include <cerrno>
#include <utility>

namespace limaquota {
namespace {
// How long an operation waits for others that may give something back, in steps of wait_step_ms.
constexpr unsigned most_waits = 200;
constexpr unsigned wait_step_ms = 5;
}  // namespace

bool Admission::wait_for_others(const Refused& refusal, Tried& tried) {
  if (refusal.by == RefusedBy::host && !std::exchange(tried.host, true) && backing_.sync_host(ledger_))
    return true;
  if (!refusal.others_in_flight && !table_.some_dying()) return false;
  if (++tried.waits > most_waits) return false;
  ledger_.wait_for_change(wait_step_ms);
  return true;
}

bool Admission::settle_others(const AccountIds& accounts, const Refused& refusal) {
  return refusal.by == RefusedBy::host ? settling_.settle_all() : settling_.settle_accounts(accounts);
}

bool Admission::make_room(Inode& inode, const Refused& refusal, Tried& tried) {
  if (!std::exchange(tried.own, true)) {
    if (inode.unsettled > 0 || inode.is_unknown || late_.is_guessed(inode) ||
        backing_.rules().preallocates()) {
      settling_.settle(inode, Settling::Preallocation::goes);
      return true;
    }
  }
  // A block that was shared when the map was filled may be the file's own by now.
  if (!tried.map && inode.maybe_shared && inode.sharing == 0) {
    tried.map = true;
    inode.map = AllocationMap();
    inode.maybe_shared = false;
    return true;
  }
  const auto accounts_now = inode.charge.accounts();
  const MutexUnlock unlocked(inode.mutex);
  if (wait_for_others(refusal, tried)) return true;
  return !std::exchange(tried.others, true) && settle_others(accounts_now, refusal);
}

Reserved Admission::reserve(const Inode& inode, Bytes bytes, Line line) {
  return ledger_.reserve(claims(inode, bytes), line, backing_.host_sample(ledger_));
}

Result<Grant> Admission::admit(Inode& inode, int fd, ByteRange range) {
  const uint64_t whole = range.length;
  const Line line = line_of(inode);
  Tried tried;
  Refused refusal;
  needs_.read_hints(inode, fd);
  for (;;) {
    const HostSample host = backing_.host_sample(ledger_);
    if (inode.unwritten == 0) {
      const Need far = needs_.far(inode, range);
      if (auto reserved = ledger_.reserve(claims(inode, far.bytes), line, host); reserved.given)
        return Grant{std::move(*reserved.given), range.length, far};
    }
    const auto exact = needs_.exact(inode, fd, range);
    if (!exact) return exact.error();
    if (exact->bytes == Bytes(0)) return Grant{Reservation(), range.length, *exact};
    auto reserved = ledger_.reserve(claims(inode, exact->bytes), line, host);
    if (reserved.given) return Grant{std::move(*reserved.given), range.length, *exact};
    refusal = reserved.refused;
    if (range.length == whole && make_room(inode, refusal, tried)) continue;
    const auto length = needs_.fitting(inode, fd, range, refusal.room);
    if (!length) return length.error();
    if (*length == 0) break;
    range.length = *length;
  }
  return refused(claims(inode, Bytes(0)), Bytes(whole), refusal);
}

Errno Admission::refused(const Claims& claims, Bytes bytes, const Refused& refusal) {
  for (const Claim& claim : claims) ledger_.note_refusal(claim.account, bytes, refusal.by);
  return errno_of(refusal);
}

Reserved Admission::reserve_patiently(const Claims& claims, Line line) {
  Tried tried;
  for (;;) {
    auto reserved = ledger_.reserve(claims, line, backing_.host_sample(ledger_));
    if (reserved.given) return reserved;
    if (wait_for_others(reserved.refused, tried)) continue;
    if (std::exchange(tried.others, true)) return reserved;
    AccountIds accounts;
    for (const Claim& claim : claims) accounts.push_back(claim.account);
    (void)settle_others(accounts, reserved.refused);
  }
}

Result<Reservation> Admission::reserve(const Claims& claims, Line line) {
  auto reserved = reserve_patiently(claims, line);
  if (reserved.given) return std::move(*reserved.given);
  return refused(claims, Bytes(0), reserved.refused);
}

Result<Reservation> Admission::reserve_if_possible(const Claims& claims, Line line) {
  auto reserved = reserve_patiently(claims, line);
  if (reserved.given) return std::move(*reserved.given);
  return errno_of(reserved.refused);
}

}  // namespace limaquota
