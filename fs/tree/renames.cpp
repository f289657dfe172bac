// Renames, and what they do to charges: a name that goes to another account takes its charge along.
#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fs/system/read_names.hpp"
#include "fs/tree/tree.hpp"

namespace limaquota {
namespace {

Holder& holder_of(std::vector<Holder>& holders, AccountId account) {
  const auto found =
      std::find_if(holders.begin(), holders.end(), [&](const Holder& h) { return h.account == account; });
  if (found != holders.end()) return *found;
  return holders.emplace_back(Holder{account, 0});
}

// Locks one or two directories in ascending order of id.
class LockedParents {
 public:
  LockedParents(Inode& a, Inode& b) {
    if (&a == &b) {
      first_ = std::unique_lock(a.mutex);
      return;
    }
    Inode& low = a.id < b.id ? a : b;
    Inode& high = a.id < b.id ? b : a;
    first_ = std::unique_lock(low.mutex);
    second_ = std::unique_lock(high.mutex);
  }

 private:
  std::unique_lock<std::mutex> first_, second_;
};

}  // namespace

// One of several names went from one account to another: the inode counts in each that holds a name.
void Tree::move_holder(Charge& charge, AccountId from, AccountId to, Bytes slack) {
  auto& holders = *charge.holders;
  Holder& source = holder_of(holders, from);
  const bool empty = source.names > 0 && --source.names == 0;
  const bool is_new = holder_of(holders, to).names++ == 0;
  if (empty && is_new) {
    ledger_.move(from, to, charge.bytes, slack);
  } else if (is_new || empty) {
    const Change change = is_new ? Change{to, Bytes(0), charge.bytes, Bytes(0), slack, 0}
                                 : Change{from, charge.bytes, Bytes(0), slack, Bytes(0), 0};
    ledger_.apply(&change, 1);
  }
  std::erase_if(holders, [](const Holder& h) { return h.names == 0; });
  charge.account = holders.front().account;
}

void Tree::move_name(Victim& victim, AccountId from, const Child& child, const char* name) {
  Charge* charge = table_.find_charge(victim.id);
  if (charge == nullptr) return;
  victim.inode = table_.find(victim.id);
  std::unique_lock<std::mutex> lock;
  if (victim.inode) lock = std::unique_lock(victim.inode->mutex);
  const Bytes slack = victim.inode ? victim.inode->slack : Bytes(0);
  const AccountId to = child.account;
  if (from != to) {
    if (!charge->holders) {
      ledger_.move(charge->account, to, charge->bytes, slack);
      charge->account = to;
    } else {
      move_holder(*charge, from, to, slack);
    }
  }
  charge->role = child.role;
  charge->is_yaml = child.is_yaml;
  if (charge->is_disk && !child.is_disk) accounts_.drop_disk(victim.id);
  charge->is_disk = child.is_disk;
  if (child.is_disk) accounts_.put_disk(victim.id, charge->account, name, victim.path.get(), victim.st);
}

// A directory's own charge moves before its entries are listed, so an entry that is made meanwhile is either
// listed or made in the new account already.
void Tree::moved(Victim& victim, AccountId from, const Child& child, const char* name) {
  const Charge* charge = table_.find_charge(victim.id);
  const bool same_role = charge == nullptr || charge->role == child.role;
  move_name(victim, from, child, name);
  if (!S_ISDIR(victim.st.st_mode) || (from == child.account && same_role)) return;
  const auto dir = backing_.sys().openat(victim.path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!dir || !move_below(dir->get(), from, child.role, child.account)) {
    // Some of it could not be looked at: what is still charged to the old account is moved later.
    auto again = backing_.sys().openat(victim.path.get(), ".", O_PATH | O_DIRECTORY, 0);
    const std::lock_guard lock(recount_mutex_);
    if (again) moves_to_do_.push_back({std::move(*again), from, child});
  }
}

void Tree::moves_again() {
  std::vector<Move> moves;
  {
    const std::lock_guard lock(recount_mutex_);
    moves.swap(moves_to_do_);
  }
  for (Move& move : moves) {
    // It may have been moved on, or removed, meanwhile.
    const auto st = backing_.sys().fstat(move.directory.get());
    const Charge* charge = st ? table_.find_charge(table_.id_of(st->st_dev, st->st_ino)) : nullptr;
    if (charge == nullptr) continue;
    move.child.account = charge->account;
    move.child.role = charge->role;
    const auto dir = backing_.sys().openat(move.directory.get(), ".", O_RDONLY | O_DIRECTORY, 0);
    if (dir && move_below(dir->get(), move.from, move.child.role, move.child.account)) continue;
    const std::lock_guard lock(recount_mutex_);
    moves_to_do_.push_back(std::move(move));
  }
}

bool Tree::move_below(int dir, AccountId from, Role role, AccountId account) {
  const auto names = read_names(backing_.sys(), dir);
  bool all = names.operator bool();
  for (size_t i = 0; names && i < names->size(); ++i) {
    const std::string& name = (*names)[i];
    auto path = backing_.sys().openat(dir, name.c_str(), O_PATH | O_NOFOLLOW, 0);
    const auto st = path ? backing_.sys().fstat(path->get()) : Result<struct stat>(path.error());
    if (!st) {
      all = all && st.error().value == ENOENT;
      continue;
    }
    Victim victim;
    victim.path = std::move(*path);
    victim.st = *st;
    victim.id = table_.id_of(st->st_dev, st->st_ino);
    const Child child = child_of(role, account, name, st->st_mode);
    const Charge* charge = table_.find_charge(victim.id);
    if (charge == nullptr) continue;
    const Role old_role = charge->role;
    if (!charge->holders && charge->account == child.account && old_role == child.role) continue;
    const AccountId own = old_role == Role::disk ? static_cast<AccountId>(charge->account) : from;
    moved(victim, own, child, name.c_str());
    if (old_role == Role::disk && own != child.account) accounts_.closed(old_role, own);
  }
  return all;
}

// The account that what was renamed has left, if it has.
std::optional<Tree::Left> Tree::renamed(Victim& victim, const Inode& from_parent, const Inode& to_parent,
                                        const char* to_name) {
  const Charge* charge = table_.find_charge(victim.id);
  if (charge == nullptr) return std::nullopt;
  const Role role = charge->role;
  const bool owns_account = role == Role::vm || role == Role::disk;
  const AccountId from = owns_account ? charge->account : from_parent.charge.account;
  const Child child = child_of(to_parent.charge.role, to_parent.charge.account, to_name, victim.st.st_mode);
  moved(victim, from, child, to_name);
  if (from == child.account) return std::nullopt;
  return Left{role, from};
}

// Renames in a full account may make directories grow by so much in all, until something fits again.
bool Tree::lend_for_rename(AccountId account) {
  const std::lock_guard lock(recount_mutex_);
  Bytes& lent = lent_for_renames_[account];
  if (lent + Bytes(4 * backing_.block()) > Ledger::hand) return false;
  lent += Bytes(backing_.block());
  return true;
}

// Between which accounts a limit follows what is renamed: a VM or a disk takes its own along, whether Lima
// renames the directory or moves lima.yaml to a new one.
std::optional<Tree::LimitMove> Tree::limit_move(const Inode& parent, std::string_view name,
                                                const Inode& new_parent, std::string_view new_name,
                                                mode_t type) const {
  const Role from = parent.charge.role;
  const Role to = new_parent.charge.role;
  LimitMove move{Accounts::own_account(from, name, type), Accounts::own_account(to, new_name, type)};
  if (Accounts::is_yaml(from, name) && Accounts::is_yaml(to, new_name))
    move = {ledger_.name(parent.charge.account), ledger_.name(new_parent.charge.account)};
  else if (Accounts::role_of_child(from, name, type) != Accounts::role_of_child(to, new_name, type))
    return std::nullopt;
  if (move.from.empty() || move.from == move.to) return std::nullopt;
  return move;
}

// Of two that are exchanged the one that has a limit gives it to the other's name; where both have one, each
// stays with its name.
std::optional<Tree::LimitMove> Tree::limit_that_follows(const Replay& replay, const Inode& parent,
                                                        const char* name, const Inode& new_parent,
                                                        const char* new_name, const Victim& source,
                                                        const Victim* exchanged, LimitGoes* goes) const {
  *goes = LimitGoes::nowhere;
  const auto earlier = replay.earlier<Renames>();
  const auto follows = [&](const std::optional<LimitMove>& move, LimitGoes where) {
    if (!move) return false;
    const auto text = limits_.text(move->from);
    const auto there = limits_.text(move->to);
    // A worker that died may have left it under both names.
    const bool prepared = earlier && earlier->limit == where && there == text;
    return text && (!there || prepared);
  };
  auto along = limit_move(parent, name, new_parent, new_name, source.st.st_mode);
  if (follows(along, LimitGoes::along)) {
    *goes = LimitGoes::along;
    return along;
  }
  auto back = exchanged == nullptr ? std::nullopt
                                   : limit_move(new_parent, new_name, parent, name, exchanged->st.st_mode);
  if (!follows(back, LimitGoes::back)) return std::nullopt;
  *goes = LimitGoes::back;
  return back;
}

void Tree::make_durable(const Inode& directory) const {
  const auto fd = backing_.sys().openat(directory.path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (fd) (void)!backing_.sys().fsync(fd->get());
}

// Whether a request that came again was carried out: then what it was to move is there, the scan found it
// there, and only its limit may have yet to follow.
bool Tree::renamed_before(const Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                          const char* new_name) {
  const auto before = replay.earlier<Renames>();
  if (!before || before->source == before->target) return false;
  const auto there = look_at(new_parent, new_name);
  if (!there || there->id != before->source) return false;
  std::optional<LimitMove> limit;
  if (before->limit == LimitGoes::along) {
    limit = limit_move(parent, name, new_parent, new_name, there->st.st_mode);
  } else if (before->limit == LimitGoes::back) {
    if (const auto other = look_at(parent, name))
      limit = limit_move(new_parent, new_name, parent, name, other->st.st_mode);
  }
  if (limit) {
    for (const Inode* directory : {&parent, &new_parent}) make_durable(*directory);
    limits_.follow(limit->from, limit->to);
  }
  return true;
}

Result<void> Tree::rename(Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                          const char* new_name, unsigned flags) {
  if (renamed_before(replay, parent, name, new_parent, new_name)) return {};
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  Reservation reservation;
  if (&parent == &new_parent) {
    // Inside a directory a rename is not refused, unless ever longer names would make it grow beyond all
    // bounds.
    auto granted = io_.reserve({{parent.charge.account, Bytes(4 * backing_.block())}}, Line::moving, false);
    const bool longer = std::strlen(new_name) > std::strlen(name);
    const bool grows =
        !granted && longer && !backing_.directory_has_room(parent.path.get(), std::strlen(new_name));
    if (grows && !lend_for_rename(parent.charge.account)) return granted.error();
    if (granted) {
      reservation = std::move(*granted);
      const std::lock_guard lock(recount_mutex_);
      lent_for_renames_.erase(parent.charge.account);
    }
  } else {
    Claims claims{{new_parent.charge.account, backing_.metadata()}};
    if (exchange) claims.push_back({parent.charge.account, backing_.metadata()});
    auto granted = io_.reserve(claims, Line::moving);
    // Refused only where a directory must grow and cannot.
    const bool fits =
        granted || (backing_.directory_has_room(new_parent.path.get(), std::strlen(new_name)) &&
                    (!exchange || backing_.directory_has_room(parent.path.get(), std::strlen(name))));
    if (!fits) return granted.error();
    if (granted) reservation = std::move(*granted);
  }
  Victim source;
  Victim target;
  std::optional<LimitMove> limit;
  {
    const LockedParents lock(parent, new_parent);
    auto found = look_at(parent, name);
    if (!found) return found.error();
    source = std::move(*found);
    auto there = look_at(new_parent, new_name);
    if (!there && there.error().value != ENOENT) return there.error();
    if (there) target = std::move(*there);
    LimitGoes goes = LimitGoes::nowhere;
    limit = limit_that_follows(replay, parent, name, new_parent, new_name, source,
                               exchange ? &target : nullptr, &goes);
    replay.intend(Renames{source.id, target.id, goes});
    if (limit) limits_.prepare_to_follow(limit->from, limit->to);
    if (target.id != 0 && !exchange) note_victim(target);
    const auto done =
        backing_.sys().renameat2(parent.path.get(), name, new_parent.path.get(), new_name, flags);
    if (!done) {
      if (limit) limits_.stay(limit->from, limit->to);
      return done;
    }
    if (target.id == source.id) return {};  // two names of one file: nothing was done
    MeteredIo::Changes changes;
    if ((flags & RENAME_WHITEOUT) != 0) {
      auto whiteout = look_at(parent, name);
      const Child child = child_of(parent.charge.role, parent.charge.account, name, S_IFCHR);
      if (whiteout) add_charge(whiteout->id, child, name, whiteout->path.get(), whiteout->st, &changes);
    }
    io_.commit(std::move(reservation), {&parent, &parent == &new_parent ? nullptr : &new_parent}, changes);
  }
  if (target.id != 0 && !exchange) {
    MeteredIo::Changes changes;
    name_gone(std::move(target), new_parent.charge.account, &changes);
    ledger_.apply(changes.data(), changes.size());
  }
  const auto left = renamed(source, parent, new_parent, new_name);
  if (exchange) (void)renamed(target, new_parent, parent, name);
  if (limit) {
    // The old name of the limit must not go before that of the VM is on the disk.
    for (const Inode* directory : {&parent, &new_parent}) make_durable(*directory);
    limits_.follow(limit->from, limit->to);
  }
  if (left && !exchange) accounts_.closed(left->role, left->account);
  accounts_.changed(parent.charge.role, parent.charge.account, name);
  accounts_.changed(new_parent.charge.role, new_parent.charge.account, new_name);
  return {};
}

}  // namespace limaquota
