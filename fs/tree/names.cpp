#include "fs/tree/names.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/tree/standing.hpp"

namespace limaquota {
namespace {
constexpr int handled_elsewhere = O_APPEND | O_DIRECT | O_NOFOLLOW | O_TRUNC;
}  // namespace

bool Names::stands(const Inode& parent, const char* name) const {
  return backing_.sys().fstatat(parent.path.get(), name, AT_SYMLINK_NOFOLLOW).operator bool();
}

Result<Names::Made> Names::make(Replay& replay, const Making& making) {
  entries_.make_room_for_one();
  Inode& parent = making.parent;
  // Carried out before, what it intended is there, and needs no room. Nothing changes the name meanwhile: the
  // kernel holds its directory's lock.
  const bool there = replay.notes_intents() && stands(parent, making.name);
  const bool before = there && (replay.earlier<MakesName>() || replay.earlier<OpensUp>());
  const Child child = accounts_.child_of(parent.role(), parent.account(), making.name, making.type);
  Claims claims{{parent.account(), backing_.metadata(making.value_size)}};
  if (child.account != parent.account()) claims.push_back({child.account, backing_.metadata()});
  const auto undo = [&](Errno error) {
    if (child.account != parent.account() && !stands(parent, making.name))
      accounts_.closed(child.role, child.account);
    return error;
  };
  auto reservation = before ? Result<Reservation>(Reservation()) : admission_.reserve(claims, Line::control);
  if (!reservation) return undo(reservation.error());
  Result<Entry> entry = Entry();
  {
    const MutexLock lock(making.parent.mutex);
    if (!there) replay.intend(MakesName{});
    if (const auto done = before ? Result<void>() : making.call(); !done) return undo(done.error());
    entry = enter_made(making, std::move(*reservation));
  }
  accounts_.changed(parent.role(), child.account, making.name);
  if (!entry) return entry.error();
  return Made{std::move(*entry), before};
}

// What was made cannot always be looked at: its directory is gone through later then.
Result<Entry> Names::enter_made(const Making& making, Reservation reservation) {
  Changes changes;
  auto path = backing_.open(making.parent.path.get(), making.name, O_PATH | O_NOFOLLOW);
  auto entry = path ? entries_.enter(making.parent, making.name, std::move(*path), changes)
                    : Result<Entry>(path.error());
  if (!entry) recounts_.add(making.parent);
  inode_charges_.commit(std::move(reservation), {&making.parent}, changes);
  return entry;
}

Result<Entry> Names::make_entry(Replay& replay, const Making& making) {
  auto made = make(replay, making);
  if (!made) return made.error();
  return std::move(made->entry);
}

Result<Names::Created> Names::create(Replay& replay, DataPath& data, Inode& parent, const char* name,
                                     mode_t mode, int flags, const Caller& caller) {
  Created created;
  bool truncate = false;
  const auto call = [&]() -> Result<void> {
    const AsCaller as(caller);
    const KeepSetId keep(caller.uid == 0);
    auto fd =
        backing_.open(parent.path.get(), name, (flags & ~handled_elsewhere) | O_CREAT | O_NOFOLLOW, mode);
    if (!fd) return fd.error();
    replay.note_opened(fd->get());
    created.fd = std::move(*fd);
    truncate = (flags & O_TRUNC) != 0;
    return {};
  };
  auto made = make(replay, {parent, name, S_IFREG, call});
  const auto fail = [&](Errno error) {
    if (made) ends_.forget(made->entry.inode->id, 1);
    replay.note_closed();
    return error;
  };
  if (!made) return fail(made.error());
  if (made->before) {
    auto fd = open_made_before(replay, made->entry, flags & ~(handled_elsewhere | O_CREAT | O_EXCL));
    if (!fd) return fail(fd.error());
    created.fd = std::move(*fd);
  }
  created.entry = made->entry;
  if (truncate && created.entry.st.st_size > 0) {
    const auto shortened = data.truncate(*created.entry.inode, created.fd.get(), 0);
    if (!shortened) return fail(shortened.error());
    if (auto st = entries_.attributes(*created.entry.inode)) created.entry.st = *st;
  }
  return created;
}

// For a CREATE that came again. The file's mode may forbid to open it once more. As a rule it is open still;
// else the worker died before it could note what it had opened, and the mode is changed for a moment, which
// is noted for the case that this one dies, too.
Result<Fd> Names::open_made_before(Replay& replay, Entry& entry, int flags) {
  const auto earlier = replay.earlier<OpensUp>();
  if (Fd fd = replay.opened_before()) return fd;
  const ProcPath path(entry.inode->path.get());
  bool changed = earlier.has_value();
  const mode_t mode = (changed ? earlier->mode : entry.st.st_mode) & 07777;
  auto fd = backing_.open(AT_FDCWD, path.c_str(), flags);
  if (!fd && fd.error().value == EACCES) {
    replay.intend(OpensUp{mode});
    changed = true;
    const auto opened_up = backing_.sys().chmod(entry.inode->path.get(), mode | S_IRUSR | S_IWUSR);
    if (!opened_up) return opened_up.error();
    fd = backing_.open(AT_FDCWD, path.c_str(), flags);
  }
  if (changed) {
    const auto back = backing_.sys().chmod(entry.inode->path.get(), mode);
    if (!back) return back.error();
    entry.st.st_mode = S_IFREG | mode;
  }
  if (fd) replay.note_opened(fd->get());  // now that its mode is what it was
  return fd;
}

Result<Entry> Names::mknod(Replay& replay, Inode& parent, const char* name, mode_t mode, dev_t device,
                           const Caller& caller) {
  const auto call = [&] {
    const AsCaller as(caller);
    const KeepSetId keep(caller.uid == 0);
    return backing_.sys().mknodat(parent.path.get(), name, mode, device);
  };
  return make_entry(replay, {parent, name, mode & S_IFMT, call});
}

Result<Entry> Names::mkdir(Replay& replay, Inode& parent, const char* name, mode_t mode,
                           const Caller& caller) {
  const auto call = [&] {
    const AsCaller as(caller);
    const KeepSetId keep(caller.uid == 0);
    return backing_.sys().mkdirat(parent.path.get(), name, mode);
  };
  return make_entry(replay, {parent, name, S_IFDIR, call});
}

Result<Entry> Names::symlink(Replay& replay, Inode& parent, const char* name, const char* target,
                             const Caller& caller) {
  const auto call = [&] {
    const AsCaller as(caller);
    return backing_.sys().symlinkat(target, parent.path.get(), name);
  };
  return make_entry(replay, {parent, name, S_IFLNK, call, std::strlen(target)});
}

Result<Names::Created> Names::tmpfile(Inode& parent, mode_t mode, int flags, const Caller& caller) {
  auto reservation = admission_.reserve({{parent.account(), backing_.metadata()}}, Line::control);
  if (!reservation) return reservation.error();
  Created created;
  const MutexLock lock(parent.mutex);
  {
    const AsCaller as(caller);
    auto fd = backing_.sys().openat(parent.path.get(), ".",
                                    (flags & ~(handled_elsewhere | O_CREAT)) | O_TMPFILE, mode);
    if (!fd) return fd.error();
    created.fd = std::move(*fd);
  }
  auto path = backing_.sys().openat(AT_FDCWD, ProcPath(created.fd.get()).c_str(), O_PATH, 0);
  if (!path) return path.error();
  Changes changes;
  auto entry = entries_.enter(parent, "", std::move(*path), changes);
  if (!entry) return entry.error();
  {
    const MutexLock made(entry->inode->mutex);
    entry->inode->gone = true;
    table_.note_account(*entry->inode, ledger_.name(entry->inode->charge.account));
  }
  inode_charges_.commit(std::move(*reservation), {&parent}, changes);
  created.entry = std::move(*entry);
  return created;
}

Result<Entry> Names::link(Replay& replay, Inode& inode, Inode& parent, const char* name) {
  const AccountId account = parent.account();
  {
    const MutexLock lock(inode.mutex);
    const auto holders = inode.charge.accounts();
    if (inode.dead || std::find(holders.begin(), holders.end(), account) == holders.end())
      return Errno{EXDEV};
  }
  const auto call = [&] { return backing_.sys().linkat(inode.path.get(), parent.path.get(), name); };
  auto made = make(replay, {parent, name, inode.type, call});
  if (!made) return made.error();
  // What was made before the scan is counted by it.
  if (made->before) return std::move(made->entry);
  const MutexLock lock(inode.mutex);
  if (std::exchange(inode.gone, false)) {  // an O_TMPFILE got its first name
    table_.unmark_dying(inode);
  } else {
    Charges::add_name(inode, account);
  }
  if (!inode.is_disk() && is_disk_file(parent.role(), name, inode.type))
    charges_.become_disk(inode, account, name, made->entry.st);
  return std::move(made->entry);
}

Result<void> Names::remove(Replay& replay, Inode& parent, const char* name, Removed what) {
  const auto before = replay.earlier<TakesNameAway>();
  std::optional<Standing> gone;
  {
    const MutexLock lock(parent.mutex);
    auto standing = look_at(backing_, table_, parent.path.get(), name);
    // Carried out before, it has taken away what was there.
    if (before && (standing ? standing->id != before->inode : standing.error().value == ENOENT)) return {};
    if (!standing) return standing.error();
    replay.intend(TakesNameAway{standing->id});
    ends_.name_goes(*standing);
    const auto done =
        backing_.sys().unlinkat(parent.path.get(), name, what == Removed::directory ? AT_REMOVEDIR : 0);
    if (!done) return done;
    inode_charges_.commit(Reservation(), {&parent});
    gone = std::move(*standing);
  }
  // Without the parent's lock: a directory is locked after another only in ascending order of id.
  ends_.name_gone(std::move(*gone), parent.account());
  accounts_.changed(parent.role(), parent.account(), name);
  return {};
}

}  // namespace limaquota
