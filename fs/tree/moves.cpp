#include "fs/tree/moves.hpp"

#include <fcntl.h>

#include <cerrno>
#include <string>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {

// A directory's own charge moves before its entries are listed, so an entry that is made meanwhile is either
// listed or made in the new account already.
void Moves::move(const Standing& moved, Role role_before, AccountId from, const Child& child,
                 const char* name) {
  charges_.move_name(moved.found(), from, child, name);
  if (!moved.is_directory() || (from == child.account && role_before == child.role)) return;
  const auto dir = backing_.sys().openat(moved.path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (dir && move_below(dir->get(), from, child.role, child.account) == Looked::at_all) return;
  auto again = backing_.sys().openat(moved.path.get(), ".", O_PATH | O_DIRECTORY, 0);
  const MutexLock lock(mutex_);
  if (again) unfinished_.push_back({std::move(*again), from});
}

void Moves::go_on() {
  std::vector<Unfinished> unfinished;
  {
    const MutexLock lock(mutex_);
    unfinished.swap(unfinished_);
  }
  for (Unfinished& one : unfinished) {
    // It may have been moved on, or removed, meanwhile.
    const auto st = backing_.sys().fstat(one.directory.get());
    const auto now = st ? charges_.find(table_.id_of(st->st_dev, st->st_ino)) : std::nullopt;
    if (!now) continue;
    const auto dir = backing_.sys().openat(one.directory.get(), ".", O_RDONLY | O_DIRECTORY, 0);
    if (dir && move_below(dir->get(), one.from, now->role, now->account) == Looked::at_all) continue;
    const MutexLock lock(mutex_);
    unfinished_.push_back(std::move(one));
  }
}

Moves::Looked Moves::move_below(int dir, AccountId from, Role role, AccountId account) {
  const auto names = read_names(backing_.sys(), dir);
  if (!names) return Looked::at_some;
  Looked looked = Looked::at_all;
  for (const std::string& name : *names) {
    const auto standing = look_at(backing_, table_, dir, name.c_str());
    if (standing) {
      move_entry(*standing, from, role, account, name.c_str());
    } else if (standing.error().value != ENOENT) {
      looked = Looked::at_some;
    }
  }
  return looked;
}

// `role` and `account` are those of its directory now.
void Moves::move_entry(const Standing& standing, AccountId from, Role role, AccountId account,
                       const char* name) {
  const Child child = accounts_.child_of(role, account, name, standing.st.st_mode);
  const auto before = charges_.find(standing.id);
  if (!before) return;
  if (!before->has_holders && before->account == child.account && before->role == child.role) return;
  const AccountId own = before->role == Role::disk ? before->account : from;
  move(standing, before->role, own, child, name);
  if (before->role == Role::disk && own != child.account) accounts_.closed(before->role, own);
}

std::optional<Moves::Left> Moves::renamed(const Standing& moved, const Inode& from_parent,
                                          const Inode& to_parent, const char* to_name) {
  const auto before = charges_.find(moved.id);
  if (!before) return std::nullopt;
  const bool owns_account = before->role == Role::vm || before->role == Role::disk;
  const AccountId from = owns_account ? before->account : AccountId(from_parent.account());
  const Child child = accounts_.child_of(to_parent.role(), to_parent.account(), to_name, moved.st.st_mode);
  move(moved, before->role, from, child, to_name);
  if (from == child.account) return std::nullopt;
  return Left{before->role, from};
}

}  // namespace limaquota
