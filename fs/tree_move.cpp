// Renames, and what they do to charges: a name that goes to another account takes its charge along.
#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accounting/layout.hpp"
#include "fs/handover.hpp"
#include "fs/read_names.hpp"
#include "fs/tree.hpp"

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

bool Tree::renamed(Victim& victim, const Inode& from_parent, const Inode& to_parent, const char* to_name,
                   bool exchanged, bool limit_moved) {
  const Charge* charge = table_.find_charge(victim.id);
  if (charge == nullptr) return false;
  const Role role = charge->role;
  const bool owns_account = role == Role::vm || role == Role::disk;
  const bool yaml = charge->is_yaml;
  const AccountId from = owns_account ? charge->account : from_parent.charge.account;
  const Child child = child_of(to_parent.charge.role, to_parent.charge.account, to_name, victim.st.st_mode);
  moved(victim, from, child, to_name);
  if (from == child.account) return false;
  bool followed = false;
  // A limit follows its VM, whether Lima renames the directory or moves lima.yaml to a new one.
  if ((owns_account && role == child.role) || (yaml && child.is_yaml)) {
    if (!limit_moved) followed = limits_.follow(ledger_.name(from), ledger_.name(child.account));
    if (followed) InService::note_limit_moved();
  }
  if (!exchanged) accounts_.closed(role, from);
  return followed;
}

// Renames in a full account may make directories grow by so much in all, until something fits again.
bool Tree::lend_for_rename(AccountId account) {
  const std::lock_guard lock(recount_mutex_);
  Bytes& lent = lent_for_renames_[account];
  if (lent + Bytes(4 * backing_.block()) > Ledger::hand) return false;
  lent += Bytes(backing_.block());
  return true;
}

// The scan found what a rename had done before its worker died, but for the limit, which is to go with its
// VM.
void Tree::follow_moved(const Inode& parent, std::string_view name, const Inode& new_parent,
                        std::string_view new_name, mode_t type, bool exchanged) {
  if (InService::limit_moved()) return;
  const auto account = [&](const Inode& directory, std::string_view child) -> std::string {
    const Role role = directory.charge.role;
    switch (Accounts::role_of_child(role, child, type)) {
      case Role::vm:
        return std::string(child);
      case Role::disk:
        return account_of_disk(child);
      default:
        return Accounts::is_yaml(role, child) ? ledger_.name(directory.charge.account) : std::string();
    }
  };
  const std::string from = account(parent, name);
  const std::string to = account(new_parent, new_name);
  if (from.empty() || to.empty() || from == to) return;
  if (limits_.follow(from, to) || (exchanged && limits_.follow(to, from))) InService::note_limit_moved();
}

Result<void> Tree::rename(Inode& parent, const char* name, Inode& new_parent, const char* new_name,
                          unsigned flags) {
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
  {
    const LockedParents lock(parent, new_parent);
    auto found = look_at(parent, name);
    auto there = look_at(new_parent, new_name);
    // A request that came again may have been carried out: then what it was to move is there.
    const auto before = InService::earlier();
    if (before && before->first != before->second && there && there->id == before->first) {
      follow_moved(parent, name, new_parent, new_name, there->st.st_mode, exchange);
      return {};
    }
    if (!found) return found.error();
    source = std::move(*found);
    if (!there && there.error().value != ENOENT) return there.error();
    if (there) target = std::move(*there);
    InService::intend({source.id, target.id});
    if (target.id != 0 && !exchange) note_victim(target);
    const auto done =
        backing_.sys().renameat2(parent.path.get(), name, new_parent.path.get(), new_name, flags);
    if (!done) return done;
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
  const bool followed = renamed(source, parent, new_parent, new_name, exchange);
  if (exchange) renamed(target, new_parent, parent, name, true, followed);
  accounts_.changed(parent.charge.role, parent.charge.account, name);
  accounts_.changed(new_parent.charge.role, new_parent.charge.account, new_name);
  return {};
}

}  // namespace limaquota
