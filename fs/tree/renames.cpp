#include "fs/tree/renames.hpp"

#include <fcntl.h>
#include <linux/fs.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {
namespace {

// Locks one or two directories in ascending order of id.
class LIMAQUOTA_ATTRIBUTE(scoped_lockable) LockedParents {
 public:
  LockedParents(Inode& a, Inode& b) ACQUIRES(a.mutex, b.mutex)
      : first_(a.id < b.id ? a : b),
        second_(&a == &b      ? nullptr
                : a.id < b.id ? &b
                              : &a) {
    first_.mutex.lock();
    if (second_ != nullptr) second_->mutex.lock();
  }
  ~LockedParents() RELEASES() {
    if (second_ != nullptr) second_->mutex.unlock();
    first_.mutex.unlock();
  }
  LockedParents(const LockedParents&) = delete;
  LockedParents& operator=(const LockedParents&) = delete;

 private:
  Inode& first_;
  Inode* const second_;  // null where there is one
};

void make_durable(const Backing& backing, const Inode& directory) {
  const auto fd = backing.sys().openat(directory.path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (fd) (void)!backing.sys().fsync(fd->get());
}

}  // namespace

bool Renames::Call::exchanges() const { return (flags & RENAME_EXCHANGE) != 0; }

Result<void> Renames::rename(Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                             const char* new_name, unsigned flags) {
  const auto before = replay.earlier<RenamesInode>();
  Call call{parent, name, new_parent, new_name, flags, {}, {}, {}};
  if (was_done(before, call)) return {};
  auto reservation = reserve(call);
  if (!reservation) return reservation.error();
  const auto done = carry_out(replay, before, call, std::move(*reservation));
  if (!done || call.target.id == call.source.id) return done;  // two names of one file: nothing was done
  if (call.replaces()) ends_.name_gone(std::move(call.target), new_parent.account());
  const auto left = moves_.renamed(call.source, parent, new_parent, new_name);
  if (call.exchanges()) (void)moves_.renamed(call.target, new_parent, parent, name);
  if (call.limit) follow(call);
  if (left && !call.exchanges()) accounts_.closed(left->role, left->account);
  accounts_.changed(parent.role(), parent.account(), name);
  accounts_.changed(new_parent.role(), new_parent.account(), new_name);
  return {};
}

// Carried out before, what it was to move is there, the scan found it there, and only its limit may have yet
// to follow.
bool Renames::was_done(const std::optional<RenamesInode>& before, const Call& call) {
  if (!before || before->source == before->target) return false;
  const auto there = look_at(backing_, table_, call.new_parent.path.get(), call.new_name);
  if (!there || there->id != before->source) return false;
  const auto other = look_at(backing_, table_, call.parent.path.get(), call.name);
  const auto limit =
      limit_along_.of_renamed({call.parent, call.name, other ? other->st.st_mode : 0},
                              {call.new_parent, call.new_name, there->st.st_mode}, before->limit);
  if (limit) {
    for (const Inode* directory : {&call.parent, &call.new_parent}) make_durable(backing_, *directory);
    limit_follows_.follow(limit->from, limit->to);
  }
  return true;
}

Result<Reservation> Renames::reserve(const Call& call) {
  if (call.stays_in_directory()) return reserve_inside(call);
  Claims claims{{call.new_parent.account(), backing_.metadata()}};
  if (call.exchanges()) claims.push_back({call.parent.account(), backing_.metadata()});
  auto granted = admission_.reserve(claims, Line::moving);
  // Refused only where a directory must grow and cannot.
  const auto has_room = [&](const Inode& directory, const char* name) {
    return backing_.directory_has_room(directory.path.get(), std::strlen(name));
  };
  const bool fits = granted || (has_room(call.new_parent, call.new_name) &&
                                (!call.exchanges() || has_room(call.parent, call.name)));
  if (granted || !fits) return granted;
  return Reservation();
}

// Inside a directory a rename is not refused, unless ever longer names would make it grow beyond all bounds.
Result<Reservation> Renames::reserve_inside(const Call& call) {
  const AccountId account = call.parent.account();
  auto granted = admission_.reserve_if_possible({{account, Bytes(4 * backing_.block())}}, Line::moving);
  if (granted) {
    const MutexLock lock(lent_mutex_);
    lent_.erase(account);
    return granted;
  }
  const size_t length = std::strlen(call.new_name);
  const bool grows =
      length > std::strlen(call.name) && !backing_.directory_has_room(call.parent.path.get(), length);
  if (grows && !lend(account)) return granted;
  return Reservation();
}

// Renames in a full account may make directories grow by so much in all, until something fits again.
bool Renames::lend(AccountId account) {
  const MutexLock lock(lent_mutex_);
  Bytes& lent = lent_[account];
  if (lent + Bytes(4 * backing_.block()) > Ledger::hand) return false;
  lent += Bytes(backing_.block());
  return true;
}

Result<void> Renames::carry_out(Replay& replay, const std::optional<RenamesInode>& before, Call& call,
                                Reservation reservation) {
  const LockedParents lock(call.parent, call.new_parent);
  auto source = look_at(backing_, table_, call.parent.path.get(), call.name);
  if (!source) return source.error();
  call.source = std::move(*source);
  auto target = look_at(backing_, table_, call.new_parent.path.get(), call.new_name);
  if (!target && target.error().value != ENOENT) return target.error();
  if (target) call.target = std::move(*target);
  call.limit =
      limit_along_.of_rename({call.parent, call.name, call.source.st.st_mode},
                             {call.new_parent, call.new_name, call.target.st.st_mode},
                             call.exchanges() ? LimitAlong::Kind::exchange : LimitAlong::Kind::move, before);
  replay.intend(
      RenamesInode{call.source.id, call.target.id, call.limit ? call.limit->goes : LimitGoes::nowhere});
  if (call.limit) limit_follows_.prepare(call.limit->from, call.limit->to);
  if (call.replaces()) ends_.name_goes(call.target);
  const auto done = backing_.sys().renameat2(call.parent.path.get(), call.name, call.new_parent.path.get(),
                                             call.new_name, call.flags);
  if (!done) {
    if (call.limit) limit_follows_.stay(call.limit->from, call.limit->to);
    return done;
  }
  if (call.target.id == call.source.id) return {};
  Changes changes;
  if ((call.flags & RENAME_WHITEOUT) != 0) add_whiteout(call, changes);
  inode_charges_.commit(std::move(reservation),
                        {&call.parent, call.stays_in_directory() ? nullptr : &call.new_parent}, changes);
  return {};
}

void Renames::add_whiteout(const Call& call, Changes& changes) {
  const auto whiteout = look_at(backing_, table_, call.parent.path.get(), call.name);
  if (!whiteout) return;
  const Child child = accounts_.child_of(call.parent.role(), call.parent.account(), call.name, S_IFCHR);
  charges_.add(whiteout->found(backing_.sys().file_handle(whiteout->path.get(), "")), child, call.name,
               changes);
}

// The old name of the limit must not go before that of the VM is on the disk.
void Renames::follow(const Call& call) {
  for (const Inode* directory : {&call.parent, &call.new_parent}) make_durable(backing_, *directory);
  limit_follows_.follow(call.limit->from, call.limit->to);
}

}  // namespace limaquota
