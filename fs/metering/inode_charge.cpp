#include "fs/metering/inode_charge.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {

Claims claims(const Inode& inode, Bytes bytes) {
  Claims claims;
  for (const AccountId account : inode.charge.accounts()) claims.push_back({account, bytes});
  return claims;
}

Claims claims_of(Inode& inode, Bytes bytes) {
  const MutexLock lock(inode.mutex);
  return claims(inode, bytes);
}

void InodeCharges::tell(Reservation& reservation, const Changes& changes) {
  if (reservation) {
    reservation.commit(changes.data(), changes.size());
  } else {
    ledger_.apply(changes.data(), changes.size());
  }
}

void InodeCharges::finish(Inode& inode, int fd, Reservation reservation, const Need& need) {
  if (inode.dead) return;
  inode.unwritten -= need.unwritten;
  if (backing_.rules().is_late()) inode.unsettled += need.extents + need.unwritten;
  inode.last_write = std::chrono::steady_clock::now();
  Bytes charge = inode.charge.bytes;
  if (const auto st = backing_.sys().fstat(fd)) {
    charge = Bytes::of_st_blocks(st->st_blocks);
    inode.size = static_cast<uint64_t>(st->st_size);
  } else {
    could_not_look(inode, need.bytes);
  }
  Changes changes;
  change(inode, charge, late_.slack_due(inode, charge), changes);
  tell(reservation, changes);
  list(inode);
}

void InodeCharges::commit(Reservation reservation, std::initializer_list<Inode*> inodes) {
  Changes none;
  commit(std::move(reservation), inodes, none);
}

// The analysis cannot name the mutexes of a list.
void InodeCharges::commit(Reservation reservation, std::initializer_list<Inode*> inodes,
                          Changes& changes) UNCHECKED_LOCKS {
  for (Inode* inode : inodes) {
    if (inode != nullptr && !inode->dead) change_to_present(*inode, changes);
  }
  tell(reservation, changes);
}

std::optional<struct stat> InodeCharges::look(Inode& inode) {
  const auto st = backing_.sys().fstat(inode.path.get());
  if (st) return *st;
  could_not_look(inode, Bytes(0));
  list_.add(inode);
  return std::nullopt;
}

void InodeCharges::change_to_present(Inode& inode, Changes& changes) {
  const auto st = look(inode);
  if (!st) return;
  if (S_ISREG(inode.type)) inode.size = static_cast<uint64_t>(st->st_size);
  const Bytes charge = Bytes::of_st_blocks(st->st_blocks);
  change(inode, charge, late_.slack_due(inode, charge), changes);
}

void InodeCharges::observe(Inode& inode, const struct stat& st) {
  if (inode.dead) return;
  const Bytes charge = Bytes::of_st_blocks(st.st_blocks);
  inode.size = static_cast<uint64_t>(st.st_size);
  const Bytes slack = late_.slack_due(inode, charge);
  if (charge == inode.charge.bytes && slack == inode.slack) return;
  Changes changes;
  change(inode, charge, slack, changes);
  ledger_.apply(changes.data(), changes.size());
}

void InodeCharges::observe(Inode& inode) {
  const auto st = look(inode);
  if (!st) return;
  inode.is_unknown = false;
  inode.unknown_growth = Bytes(0);
  observe(inode, *st);
}

void InodeCharges::could_not_look(Inode& inode, Bytes may_have_grown) {
  inode.is_unknown = true;
  inode.unknown_growth = plus_or_unlimited(inode.unknown_growth, may_have_grown);
}

void InodeCharges::change(Inode& inode, Bytes charge_after, Bytes slack_after, Changes& changes) {
  NodeId disk = inode.charge.is_disk ? inode.id : 0;
  for (const AccountId account : inode.charge.accounts()) {
    changes.push_back({account, inode.charge.bytes, charge_after, inode.slack, slack_after,
                       std::exchange(disk, 0), Bytes(inode.size)});
  }
  inode.charge.bytes = charge_after;
  inode.slack = slack_after;
  inode.late_cap = minus_or_zero(slack_after, inode.unknown_growth);
}

void InodeCharges::list(Inode& inode) {
  if (!S_ISREG(inode.type)) return;
  if (backing_.rules().counts_at_once && !inode.is_unknown) return;
  list_.add(inode);
}

}  // namespace limaquota
