#include "fs/metering/metered_io.hpp"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "fs/metering/settler.hpp"
#include "fs/system/caller.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {

// How long an operation waits for others that may give something back, in steps of wait_step_ms.
constexpr unsigned most_waits = 200;
constexpr unsigned wait_step_ms = 5;

bool regular(const Inode& inode) { return S_ISREG(inode.type); }

}  // namespace

uint32_t steady_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
}

Claims MeteredIo::claims(const Inode& inode, Bytes bytes) const {
  Claims claims;
  for (const AccountId account : inode.charge.accounts()) claims.push_back({account, bytes});
  return claims;
}

Claims MeteredIo::claims_of(Inode& inode, Bytes bytes) const {
  const std::lock_guard lock(inode.mutex);
  return claims(inode, bytes);
}

Bytes MeteredIo::late(const Inode& inode, uint64_t extents, uint64_t present, Bytes allocated) const {
  const AllocationRules& rules = backing_.rules();
  if (inode.hints.has_extents && rules.slack.in_inode(allocated)) return Bytes(0);
  const bool maps_singly = rules.may_map_blocks_singly && inode.hints_known && !inode.hints.has_extents;
  return maps_singly ? rules.slack.late_without_extents(extents) : rules.slack.late(extents, present);
}

Bytes MeteredIo::slack_due(const Inode& inode, Bytes allocated) const {
  if (!regular(inode)) return Bytes(0);
  const Bytes due = late(inode, inode.unsettled + inode.unwritten, inode.extents_at_most, allocated);
  return std::min(due, inode.late_cap) + inode.unknown_growth;
}

// What comes of more extents alone, wherever those that are to come already will lie.
Bytes MeteredIo::late_alone(const Inode& inode, uint64_t extents) const {
  const uint64_t pending = inode.unsettled + inode.unwritten;
  const Bytes allocated = inode.charge.bytes + Bytes(extents * backing_.block());
  return late(inode, extents, inode.extents_at_most + pending, allocated);
}

Bytes MeteredIo::slack_growth(const Inode& inode, uint64_t extents) const {
  const uint64_t pending = inode.unsettled + inode.unwritten;
  const Bytes allocated = inode.charge.bytes + Bytes(extents * backing_.block());
  const Bytes all = late(inode, pending + extents, inode.extents_at_most, allocated) + inode.unknown_growth;
  return std::min(minus_or_zero(all, inode.slack), late_alone(inode, extents));
}

// They were reserved for.
void MeteredIo::expect_extents(Inode& inode, uint64_t extents) const {
  inode.late_cap = plus_or_unlimited(inode.late_cap, late_alone(inode, extents));
}

bool MeteredIo::extents_guessed(const Inode& inode) const {
  return backing_.rules().is_late() && !inode.extents_counted;
}

uint64_t MeteredIo::unit_of(Inode& inode, int fd) {
  if (!inode.hints_known) {
    inode.hints_known = true;
    if (backing_.rules().has_hints) {
      inode.hints = backing_.sys().extent_hints(fd);
      if (inode.hints.preallocated) inode.preallocated_past_end = true;
    }
  }
  return backing_.rules().unit_for(inode.hints);
}

AllocationMap::Fill MeteredIo::fill_of(Inode& inode, int fd) {
  (void)unit_of(inode, fd);  // reads what the file says of its preallocation
  const bool stays_past_end = !backing_.rules().preallocates() || inode.preallocated_past_end;
  return backing_.fill_from(fd, inode.size, stays_past_end, &inode.maybe_shared);
}

bool MeteredIo::in_place(Inode& inode, int fd, ByteRange range) {
  if (!backing_.rules().overwrites_in_place || range.end() > inode.size || inode.sharing > 0) return false;
  // A file without blocks may have its data in the inode.
  if (inode.charge.bytes == Bytes(0)) return false;
  const BlockRange blocks = range.blocks(backing_.block());
  if (inode.map.known_written(blocks)) return !inode.maybe_shared;
  const auto counts = inode.map.count(blocks, fill_of(inode, fd));
  return counts && counts->written == blocks.count && !inode.maybe_shared;
}

MeteredIo::Need MeteredIo::far_need(Inode& inode, ByteRange range) const {
  const AllocationRules& rules = backing_.rules();
  const uint64_t unit = rules.unit_for(inode.hints);
  Need need;
  need.bytes = Bytes(range.blocks(unit).count * unit);
  need.extents = range.blocks(backing_.block()).count;
  // Shared blocks are copied at both ends.
  if (rules.copies_more()) need.bytes += Bytes(2 * rules.copied_for(inode.hints));
  if (range.end() > inode.size) need.bytes += rules.preallocation(range.end());
  need.bytes += slack_growth(inode, need.extents);
  return need;
}

bool MeteredIo::last_block_is_shared(Inode& inode, int fd) {
  const uint64_t block = backing_.block();
  if (!backing_.rules().shares_blocks || inode.size % block == 0) return false;
  const auto counts = inode.map.count({inode.size / block, 1}, fill_of(inode, fd));
  return !counts || inode.sharing > 0 || (inode.maybe_shared && counts->hole > 0);
}

Result<MeteredIo::Need> MeteredIo::exact_need(Inode& inode, int fd, ByteRange range) {
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  BlockRange known = blocks;
  // Preallocation past the end is dropped at any time, unless fallocate asked for it: not to be counted on.
  if (backing_.rules().preallocates() && !inode.preallocated_past_end) {
    const uint64_t end = (inode.size + block - 1) / block;
    known.count = std::min(known.end(), std::max(end, known.first)) - known.first;
  }
  // Data in an ext4 inode (inline_data) moves out when it grows; a file is told to have extents until it has
  // such data, and again afterwards.
  const bool may_be_inline = backing_.rules().may_hold_data_in_inode && inode.size <= block;
  if (may_be_inline) inode.hints_known = false;
  auto counts = inode.map.count(known, fill_of(inode, fd));
  if (!counts) return counts.error();
  const bool may_move_out = may_be_inline && !inode.hints.has_extents && range.end() > inode.size;
  const bool all_anew = inode.sharing > 0 || may_move_out;
  if (all_anew) *counts = {blocks.count, 0, 0};
  const uint64_t holes = all_anew ? blocks.count : counts->hole + (blocks.count - known.count);
  const bool copies_tail = range.offset > inode.size && last_block_is_shared(inode, fd);
  uint64_t unit = unit_of(inode, fd);
  if (inode.maybe_shared || inode.sharing > 0)
    unit = std::max(unit, backing_.rules().copied_for(inode.hints));
  Need need;
  need.exact = true;
  need.unwritten = std::min(counts->unwritten, inode.unwritten);
  need.extents = holes + (counts->unwritten - need.unwritten);
  need.bytes = Bytes(std::min(range.blocks(unit).count, holes) * unit);
  // A write past the end zeroes the rest of the block in which the file ended.
  if (copies_tail) need.bytes += Bytes(unit);
  if (need.extents > 0) need.bytes += slack_growth(inode, need.extents);
  return need;
}

Result<uint64_t> MeteredIo::fitting(Inode& inode, int fd, ByteRange range, Bytes room) {
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  uint64_t fits = 0;
  uint64_t too_many = blocks.count + 1;
  const auto prefix = [&](uint64_t count) {
    return std::min((blocks.first + count) * block, range.end()) - range.offset;
  };
  while (fits + 1 < too_many) {
    const uint64_t middle = fits + (too_many - fits) / 2;
    const auto need = exact_need(inode, fd, {range.offset, prefix(middle)});
    if (!need) return need.error();
    (need->bytes <= room ? fits : too_many) = middle;
  }
  return fits == 0 ? 0 : prefix(fits);
}

bool MeteredIo::wait_for_others(const Refused& refusal, Tried& tried) {
  if (refusal.by_host && !std::exchange(tried.host, true) && backing_.sync_host(ledger_)) return true;
  if (!refusal.others_in_flight && !table_.some_dying()) return false;
  if (++tried.waits > most_waits) return false;
  ledger_.wait_for_change(wait_step_ms);
  return true;
}

bool MeteredIo::make_room(Inode& inode, const Refused& refusal, Tried& tried,
                          std::unique_lock<std::mutex>& lock) {
  if (!tried.own) {
    tried.own = true;
    if (inode.unsettled > 0 || inode.unknown_growth > Bytes(0) || extents_guessed(inode) ||
        backing_.rules().preallocates()) {
      settle(inode, true);
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
  lock.unlock();
  bool hope = wait_for_others(refusal, tried);
  if (!hope && !tried.others) {
    tried.others = true;
    hope = settler_.settle_accounts(accounts_now, refusal.by_host);
  }
  lock.lock();
  return hope;
}

Result<MeteredIo::Grant> MeteredIo::admit(Inode& inode, int fd, ByteRange range, bool may_shorten,
                                          std::unique_lock<std::mutex>& lock) {
  const uint64_t whole = range.length;
  Tried tried;
  Refused refusal;
  unit_of(inode, fd);
  for (;;) {
    const HostSample host = backing_.host_sample(ledger_);
    if (inode.unwritten == 0) {
      const Need far = far_need(inode, range);
      if (auto granted = ledger_.reserve(claims(inode, far.bytes), line(inode), host, nullptr)) {
        return Grant{std::move(*granted), range.length, far};
      }
    }
    const auto exact = exact_need(inode, fd, range);
    if (!exact) return exact.error();
    if (exact->bytes == Bytes(0)) return Grant{Reservation(), range.length, *exact};
    if (auto granted = ledger_.reserve(claims(inode, exact->bytes), line(inode), host, &refusal)) {
      return Grant{std::move(*granted), range.length, *exact};
    }
    if (range.length == whole && make_room(inode, refusal, tried, lock)) continue;
    if (!may_shorten) break;
    const auto length = fitting(inode, fd, range, refusal.room);
    if (!length) return length.error();
    if (*length == 0) break;
    range.length = *length;
  }
  return refused(claims(inode, Bytes(0)), Bytes(whole), refusal);
}

Errno MeteredIo::refused(const Claims& claims, Bytes bytes, const Refused& refusal) {
  for (const Claim& claim : claims) ledger_.note_refusal(claim.account, bytes, refusal.by_host);
  return Errno{refusal.by_host ? ENOSPC : refusal_};
}

Result<bool> MeteredIo::extend_first(Inode& inode, int fd, uint64_t end, bool exact) {
  if (!exact || !backing_.rules().preallocates()) return false;
  // What is known of the size may be old: a truncation must never make a file shorter.
  const auto st = backing_.sys().fstat(fd);
  if (!st) return st.error();
  inode.size = static_cast<uint64_t>(st->st_size);
  if (end <= inode.size) return false;
  const auto longer = backing_.sys().ftruncate(fd, static_cast<off_t>(end));
  if (!longer) return longer.error();
  return true;
}

// `inode.size` is what extend_first saw, and the inode's mutex was held since.
void MeteredIo::shorten_again(Inode& inode, int fd, uint64_t end) {
  const uint64_t size = std::max(inode.size, end);
  if (!backing_.sys().ftruncate(fd, static_cast<off_t>(size))) {
    log_error("cannot shorten inode {} again after a failed write", inode.id);
  }
  inode.map.truncate((size + backing_.block() - 1) / backing_.block());
}

Result<size_t> MeteredIo::write_granted(Inode& inode, int fd, const char* data, ByteRange range, bool exact) {
  const auto extended = extend_first(inode, fd, range.end(), exact);
  if (!extended) return extended.error();
  auto written = backing_.sys().pwrite(fd, data, range.length, static_cast<off_t>(range.offset));
  const uint64_t got = written ? *written : 0;
  if (*extended && got < range.length) shorten_again(inode, fd, got == 0 ? 0 : range.offset + got);
  if (got > 0)
    inode.map.set(ByteRange{range.offset, got}.blocks(backing_.block()), BlockState::written,
                  steady_seconds());
  return written;
}

Result<size_t> MeteredIo::write(Inode& inode, int fd, const char* data, size_t size, uint64_t offset) {
  if (size == 0) return size_t{0};
  std::unique_lock lock(inode.mutex);
  if (in_place(inode, fd, {offset, size})) {
    auto overwritten = backing_.sys().pwrite(fd, data, size, static_cast<off_t>(offset));
    if (!overwritten || *overwritten < size) finish(inode, fd, Reservation(), {});
    return overwritten;
  }
  auto grant = admit(inode, fd, {offset, size}, true, lock);
  if (!grant) return grant.error();
  expect_extents(inode, grant->need.extents);
  auto written = write_granted(inode, fd, data, {offset, grant->length}, grant->need.exact);
  if (!written && grant->need.exact) grant->need.unwritten = 0;  // still unwritten, as far as the map knows
  finish(inode, fd, std::move(grant->reservation), grant->need);
  return written;
}

void MeteredIo::finish(Inode& inode, int fd, Reservation reservation, const Need& need) {
  if (inode.dead) return;
  inode.unwritten -= need.unwritten;
  if (backing_.rules().is_late()) inode.unsettled += need.extents + need.unwritten;
  inode.last_write = std::chrono::steady_clock::now();
  Bytes charge = inode.charge.bytes;
  if (const auto st = backing_.sys().fstat(fd)) {
    charge = Bytes::of_st_blocks(st->st_blocks);
    inode.size = static_cast<uint64_t>(st->st_size);
  } else {
    inode.unknown_growth = plus_or_unlimited(inode.unknown_growth, std::max(need.bytes, Bytes(1)));
  }
  Changes changes;
  changes_of(inode, charge, slack_due(inode, charge), changes);
  if (reservation) {
    reservation.commit(changes.data(), changes.size());
  } else {
    ledger_.apply(changes.data(), changes.size());
  }
  list(inode);
}

void MeteredIo::changes_of(Inode& inode, Bytes charge_after, Bytes slack_after, Changes& changes) {
  NodeId disk = inode.charge.is_disk ? inode.id : 0;
  for (const AccountId account : inode.charge.accounts()) {
    changes.push_back({account, inode.charge.bytes, charge_after, inode.slack, slack_after,
                       std::exchange(disk, 0), Bytes(inode.size)});
  }
  inode.charge.bytes = charge_after;
  inode.slack = slack_after;
  inode.late_cap = minus_or_zero(slack_after, inode.unknown_growth);
}

void MeteredIo::list(Inode& inode) {
  if (!regular(inode)) return;
  if (backing_.rules().counts_at_once && inode.unknown_growth == Bytes(0)) return;
  settler_.add(inode);
}

void MeteredIo::observe(Inode& inode, const struct stat& st) {
  if (inode.dead) return;
  const Bytes charge = Bytes::of_st_blocks(st.st_blocks);
  inode.size = static_cast<uint64_t>(st.st_size);
  const Bytes slack = slack_due(inode, charge);
  if (charge == inode.charge.bytes && slack == inode.slack) return;
  Changes changes;
  changes_of(inode, charge, slack, changes);
  ledger_.apply(changes.data(), changes.size());
}

void MeteredIo::observe(Inode& inode) {
  const auto st = backing_.sys().fstat(inode.path.get());
  if (!st) {
    inode.unknown_growth = std::max(inode.unknown_growth, Bytes(1));
    settler_.add(inode);
    return;
  }
  inode.unknown_growth = Bytes(0);
  observe(inode, *st);
}

namespace {
class BeingSettled {
 public:
  explicit BeingSettled(Inode& inode) : inode_(inode) { inode_.being_settled = true; }
  BeingSettled(const BeingSettled&) = delete;
  BeingSettled& operator=(const BeingSettled&) = delete;
  ~BeingSettled() { inode_.being_settled = false; }

 private:
  Inode& inode_;
};
}  // namespace

void MeteredIo::settle(Inode& inode, bool trim) {
  if (!regular(inode) || inode.dead) return;
  const BeingSettled being(inode);
  // A descriptor of our own: a write error stays to be told by the callers' own fsync.
  Sys& sys = backing_.sys();
  const ProcPath path(inode.path.get());
  auto fd = sys.openat(AT_FDCWD, path.c_str(), O_RDWR | O_NONBLOCK, 0);
  if (!fd) fd = sys.openat(AT_FDCWD, path.c_str(), O_RDONLY | O_NONBLOCK, 0);
  // A file that even its owner may not open is written back with all others.
  if (!(fd ? sys.write_back(fd->get()).operator bool() : fd.error().value == EACCES && backing_.sync())) {
    inode.map = AllocationMap();  // the filesystem may have dropped what it could not write
    observe(inode);
    return;
  }
  inode.hints_known = false;  // an ext4 file gets its extents when it outgrows its inode
  if (fd) (void)unit_of(inode, fd->get());
  if (fd && trim && backing_.rules().preallocates() && !inode.preallocated_past_end) {
    const uint64_t end = round_up(Bytes(inode.size), Bytes(backing_.block())).count();
    const auto past_end = sys.count_extents(fd->get(), end);
    if (past_end && *past_end > 0) drop_preallocation(inode, fd->get());
  }
  inode.dirty_since = std::chrono::steady_clock::now();
  if (inode.unsettled > 0 || extents_guessed(inode)) {
    const auto extents = fd ? sys.count_extents(fd->get(), 0) : Result<uint64_t>(fd.error());
    inode.extents_at_most = extents ? *extents : inode.extents_at_most + inode.unsettled;
    inode.extents_counted = extents.operator bool();
    inode.unsettled = 0;
    ++inode.settled;
  }
  observe(inode);
}

// Punching drops it; truncating to the present size would zero the rest of the last block first, which may be
// shared. Nobody asked for either: times and set-id bits stay.
void MeteredIo::drop_preallocation(Inode& inode, int fd) {
  Sys& sys = backing_.sys();
  const auto before = sys.fstat(fd);
  if (!before) return;
  const KeepSetId keep(inode.may_have_set_id);
  const off_t end = static_cast<off_t>(
      round_up(Bytes(static_cast<uint64_t>(before->st_size)), Bytes(backing_.block())).count());
  constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (!sys.fallocate(fd, punch, end, std::numeric_limits<off_t>::max() - end)) return;
  const timespec times[2] = {{0, UTIME_OMIT}, before->st_mtim};
  (void)!sys.utimens(inode.path.get(), times);
}

Result<void> MeteredIo::sync(Inode& inode, int fd, bool data_only) {
  uint64_t before = 0;
  uint64_t settled = 0;
  {
    const std::lock_guard lock(inode.mutex);
    before = inode.unsettled;
    settled = inode.settled;
  }
  const auto result = data_only ? backing_.sys().fdatasync(fd) : backing_.sys().fsync(fd);
  const std::lock_guard lock(inode.mutex);
  if (inode.dead) return result;
  if (!result) inode.map = AllocationMap();
  const auto st = backing_.sys().fstat(fd);
  if (result && st && settled == inode.settled) {
    // Writes that came meanwhile may not be on disk: they stay counted.
    before = std::min(before, inode.unsettled);
    inode.unsettled -= before;
    ++inode.settled;
    inode.dirty_since = std::chrono::steady_clock::now();
    const uint64_t blocks = static_cast<uint64_t>(st->st_blocks) * 512 / backing_.block() + 1;
    inode.extents_at_most = std::min(inode.extents_at_most + before, blocks);
    if (before > 0) inode.extents_counted = false;
    inode.unknown_growth = Bytes(0);
  }
  if (st) observe(inode, *st);
  return result;
}

Result<Reservation> MeteredIo::reserve(const Claims& claims, Line line, bool counted) {
  Tried tried;
  Refused refusal;
  for (;;) {
    const HostSample host = backing_.host_sample(ledger_);
    if (auto granted = ledger_.reserve(claims, line, host, &refusal)) return std::move(*granted);
    if (wait_for_others(refusal, tried)) continue;
    if (tried.others) break;
    tried.others = true;
    boost::container::small_vector<AccountId, 2> accounts;
    for (const Claim& claim : claims) accounts.push_back(claim.account);
    settler_.settle_accounts(accounts, refusal.by_host);
  }
  return counted ? refused(claims, Bytes(0), refusal) : Errno{refusal.by_host ? ENOSPC : refusal_};
}

void MeteredIo::commit(Reservation reservation, std::initializer_list<Inode*> inodes) {
  Changes none;
  commit(std::move(reservation), inodes, none);
}

void MeteredIo::commit(Reservation reservation, std::initializer_list<Inode*> inodes, Changes& changes) {
  for (Inode* inode : inodes) {
    if (inode == nullptr || inode->dead) continue;
    const auto st = backing_.sys().fstat(inode->path.get());
    if (!st) {
      // Looked at again until it can be.
      inode->unknown_growth = plus_or_unlimited(inode->unknown_growth, Bytes(1));
      settler_.add(*inode);
      continue;
    }
    if (regular(*inode)) inode->size = static_cast<uint64_t>(st->st_size);
    const Bytes charge = Bytes::of_st_blocks(st->st_blocks);
    changes_of(*inode, charge, slack_due(*inode, charge), changes);
  }
  if (reservation) {
    reservation.commit(changes.data(), changes.size());
  } else {
    ledger_.apply(changes.data(), changes.size());
  }
}

}  // namespace limaquota
