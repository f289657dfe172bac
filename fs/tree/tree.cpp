#include "fs/tree/tree.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "fs/system/read_names.hpp"

namespace limaquota {
namespace {

constexpr mode_t set_id_bits = S_ISUID | S_ISGID;
constexpr int handled_elsewhere = O_APPEND | O_DIRECT | O_NOFOLLOW | O_TRUNC;

}  // namespace

void Tree::shown(const Inode& inode, struct stat& st) {
  // In a subvolume inode numbers start anew; the mount shows one device.
  if (inode.id != root_node && inode.id != st.st_ino) st.st_ino = inode.id;
}

Tree::Child Tree::child_of(Role role, AccountId account, std::string_view name, mode_t type) {
  return {accounts_.account_of_child(role, account, name, type), Accounts::role_of_child(role, name, type),
          Accounts::is_disk(role, name, type), Accounts::is_yaml(role, name)};
}

void Tree::add_charge(NodeId id, const Child& child, const char* name, int path, const struct stat& st,
                      MeteredIo::Changes* changes, std::string handle) {
  Charge charge;
  charge.bytes = Bytes::of_st_blocks(st.st_blocks);
  charge.account = child.account;
  charge.role = child.role;
  charge.is_disk = child.is_disk;
  charge.is_yaml = child.is_yaml;
  charge.handle = handle.empty() ? backing_.sys().file_handle(path, "") : std::move(handle);
  if (!table_.add_charge(id, std::move(charge))) return;
  if (child.is_disk) accounts_.put_disk(id, child.account, name, path, st);
  changes->push_back({child.account, Bytes(0), Bytes::of_st_blocks(st.st_blocks), Bytes(0), Bytes(0), 0});
}

// The caller holds parent.mutex where the entry may just have been made.
Result<Entry> Tree::enter(Inode& parent, const char* name, Fd path, MeteredIo::Changes* changes) {
  const auto st = backing_.sys().fstat(path.get());
  if (!st) return st.error();
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  std::string handle = backing_.sys().file_handle(path.get(), "");
  const auto stale = table_.take_stale_charge(id, handle);
  if (stale) give_back(*stale, Bytes(0), changes);
  if (table_.find_charge(id) == nullptr) {
    const Child child = child_of(parent.charge.role, parent.charge.account, name, st->st_mode);
    if (stale && stale->is_disk && !child.is_disk) accounts_.drop_disk(id);
    add_charge(id, child, name, path.get(), *st, changes, handle);
  }
  return enter_known(id, std::move(path), parent.id, name, *st, handle);
}

void Tree::describe(Inode& inode, const struct stat& st, const std::string& handle) const {
  inode.generation = generation_of(handle);
  inode.device = st.st_dev;
  inode.type = st.st_mode & S_IFMT;
  inode.size = static_cast<uint64_t>(st.st_size);
  inode.extents_at_most = static_cast<uint64_t>(st.st_blocks) * 512 / backing_.block() + 1;
}

Entry Tree::enter_known(NodeId id, Fd path, NodeId parent, const char* name, const struct stat& st,
                        const std::string& handle) {
  Entry entry;
  entry.st = st;
  entry.inode =
      table_.enter(id, std::move(path), parent, name, [&](Inode& inode) { describe(inode, st, handle); });
  if ((st.st_mode & set_id_bits) != 0) entry.inode->may_have_set_id = true;
  shown(*entry.inode, entry.st);
  if (knows_many()) settler_.hurry();
  return entry;
}

Result<Entry> Tree::reopen(NodeId id) {
  // The kernel forgot it, but it is on the settle list or open.
  if (Entry known{table_.enter_again(id), {}}; known.inode) {
    const auto st = attributes(*known.inode);
    if (st) {
      known.st = *st;
      return known;
    }
    forget(id, 1);
    return st.error();
  }
  const std::string handle = table_.handle_of(id);
  if (handle.empty()) return Errno{ESTALE};
  auto path = backing_.sys().open_file_handle(backing_.root(), handle);
  if (!path) return Errno{ESTALE};
  const auto st = backing_.sys().fstat(path->get());
  if (!st || table_.id_of(st->st_dev, st->st_ino) != id) return Errno{ESTALE};
  return enter_known(id, std::move(*path), 0, "", *st, handle);
}

void Tree::set_kernel(Kernel kernel) {
  const std::lock_guard lock(kernel_mutex_);
  kernel_ = std::move(kernel);
}

void Tree::forget_some() {
  rlimit limit{};
  const std::lock_guard lock(kernel_mutex_);
  if (!kernel_.forget_name || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  most_known_ = limit.rlim_cur / 2;
  for (const auto& known : table_.too_many(most_known_)) kernel_.forget_name(known.parent, known.name);
}

Result<Entry> Tree::lookup(Inode& parent, const char* name) {
  auto path = backing_.open(parent.path.get(), name, O_PATH | O_NOFOLLOW);
  if (!path) return path.error();
  MeteredIo::Changes changes;
  auto entry = enter(parent, name, std::move(*path), &changes);
  if (!changes.empty()) ledger_.apply(changes.data(), changes.size());
  return entry;
}

Result<struct stat> Tree::attributes(Inode& inode) {
  auto st = backing_.sys().fstat(inode.path.get());
  if (!st) return st;
  if ((st->st_mode & set_id_bits) != 0) inode.may_have_set_id = true;
  shown(inode, *st);
  return st;
}

void Tree::forget(NodeId id, uint64_t count) {
  if (const InodePtr last = table_.forget(id, count)) let_die(last);
}

void Tree::give_back(const Charge& charge, Bytes slack, MeteredIo::Changes* changes) {
  for (const AccountId account : charge.accounts())
    changes->push_back({account, charge.bytes, Bytes(0), slack, Bytes(0), 0});
}

// Nobody needs the inode any more. Without a name its blocks come back now: the descriptor is closed first,
// then the charge given back. The charge's record goes before either, since the inode number may be reused at
// once.
void Tree::let_die(const InodePtr& inode) {
  MeteredIo::Changes changes;
  {
    const std::lock_guard lock(inode->mutex);
    if (inode->dead || !inode->gone) return;
    give_back(inode->charge, inode->slack, &changes);
    if (inode->charge.is_disk) accounts_.drop_disk(inode->id);
    table_.drop_charge(*inode);
    table_.close_path(*inode);
  }
  ledger_.apply(changes.data(), changes.size());
  const std::lock_guard lock(inode->mutex);
  table_.unmark_dying(*inode);
}

void Tree::closed(const InodePtr& inode) {
  bool dies = false;
  --inode->opens;
  {
    const std::lock_guard lock(inode->mutex);
    if (!inode->dead && !inode->gone) io_.observe(*inode);
    if (inode->gone && inode->opens == 0) {
      settler_.remove(*inode);
      table_.mark_dying(*inode);
      dies = inode->linked_outside;
    }
  }
  if (dies) let_die(inode);
  forget(inode->id, 0);
}

bool Tree::stands(const Inode& parent, const char* name) const {
  return backing_.sys().fstatat(parent.path.get(), name, AT_SYMLINK_NOFOLLOW).operator bool();
}

Result<Entry> Tree::make(Replay& replay, Inode& parent, const char* name, mode_t type,
                         const std::function<Result<void>()>& operation, size_t value_size,
                         bool* made_before) {
  const Child child = child_of(parent.charge.role, parent.charge.account, name, type);
  Claims claims{{parent.charge.account, backing_.metadata(value_size)}};
  if (child.account != parent.charge.account) claims.push_back({child.account, backing_.metadata()});
  const auto undo = [&](Errno error) {
    if (child.account != parent.charge.account && !stands(parent, name))
      accounts_.closed(child.role, child.account);
    return error;
  };
  // A request that came again may have been carried out: then what it intended is there, and needs no room.
  // Nothing changes the name meanwhile: the kernel holds its directory's lock.
  const bool there = replay.notes_intents() && stands(parent, name);
  const bool before = there && replay.comes_again();
  if (made_before != nullptr) *made_before = before;
  auto reservation = before ? Result<Reservation>(Reservation()) : io_.reserve(claims, Line::control);
  if (!reservation) return undo(reservation.error());
  Result<Entry> entry = Errno{EIO};
  {
    const std::lock_guard lock(parent.mutex);
    if (!there) replay.intend(MakesName{});
    if (const auto done = before ? Result<void>() : operation(); !done) return undo(done.error());
    MeteredIo::Changes changes;
    auto path = backing_.open(parent.path.get(), name, O_PATH | O_NOFOLLOW);
    entry = path ? enter(parent, name, std::move(*path), &changes) : Result<Entry>(path.error());
    if (!entry) recount(parent);
    io_.commit(std::move(*reservation), {&parent}, changes);
  }
  accounts_.changed(parent.charge.role, child.account, name);
  return entry;
}

// What was made could not be looked at: its directory is gone through later.
void Tree::recount(const Inode& directory) {
  const std::lock_guard lock(recount_mutex_);
  if (InodePtr pointer = table_.find(directory.id)) to_recount_.push_back(std::move(pointer));
}

void Tree::recount_now() {
  if (limit_files_unknown_ || backing_.rules().gives_back_by_itself) recharge_limit_files();
  moves_again();
  std::vector<InodePtr> directories;
  {
    const std::lock_guard lock(recount_mutex_);
    directories.swap(to_recount_);
  }
  for (const InodePtr& directory : directories) {
    const auto dir = backing_.sys().openat(directory->path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
    const auto names =
        dir ? read_names(backing_.sys(), dir->get()) : Result<std::vector<std::string>>(dir.error());
    bool all = names.operator bool();
    for (size_t i = 0; all && i < names->size(); ++i) {
      const auto entry = lookup(*directory, (*names)[i].c_str());
      if (entry) forget(entry->inode->id, 1);
      all = entry || entry.error().value == ENOENT;
    }
    if (!all) recount(*directory);
  }
}

Result<Tree::Created> Tree::create(Replay& replay, Inode& parent, const char* name, mode_t mode, int flags,
                                   const Caller& caller) {
  Created created;
  bool truncate = false;
  bool made_before = false;
  auto entry = make(
      replay, parent, name, S_IFREG,
      [&]() -> Result<void> {
        const AsCaller as(caller);
        const KeepSetId keep(caller.uid == 0);
        auto fd =
            backing_.open(parent.path.get(), name, (flags & ~handled_elsewhere) | O_CREAT | O_NOFOLLOW, mode);
        if (!fd) return fd.error();
        replay.note_opened(fd->get());
        created.fd = std::move(*fd);
        truncate = (flags & O_TRUNC) != 0;
        return {};
      },
      0, &made_before);
  const auto fail = [&](Errno error) {
    if (entry) forget(entry->inode->id, 1);
    replay.note_closed();
    return error;
  };
  if (!entry) return fail(entry.error());
  if (made_before) {
    auto fd = open_made_before(replay, *entry, flags & ~(handled_elsewhere | O_CREAT | O_EXCL));
    if (!fd) return fail(fd.error());
    created.fd = std::move(*fd);
  }
  created.entry = *entry;
  if (truncate && created.entry.st.st_size > 0) {
    const auto shortened = io_.truncate(*created.entry.inode, created.fd.get(), 0);
    if (!shortened) return fail(shortened.error());
    if (auto st = attributes(*created.entry.inode)) created.entry.st = *st;
  }
  return created;
}

Result<Entry> Tree::mknod(Replay& replay, Inode& parent, const char* name, mode_t mode, dev_t device,
                          const Caller& caller) {
  return make(replay, parent, name, mode & S_IFMT, [&] {
    const AsCaller as(caller);
    const KeepSetId keep(caller.uid == 0);
    return backing_.sys().mknodat(parent.path.get(), name, mode, device);
  });
}

Result<Entry> Tree::mkdir(Replay& replay, Inode& parent, const char* name, mode_t mode,
                          const Caller& caller) {
  return make(replay, parent, name, S_IFDIR, [&] {
    const AsCaller as(caller);
    const KeepSetId keep(caller.uid == 0);
    return backing_.sys().mkdirat(parent.path.get(), name, mode);
  });
}

Result<Entry> Tree::symlink(Replay& replay, Inode& parent, const char* name, const char* target,
                            const Caller& caller) {
  return make(
      replay, parent, name, S_IFLNK,
      [&] {
        const AsCaller as(caller);
        return backing_.sys().symlinkat(target, parent.path.get(), name);
      },
      std::strlen(target));
}

Result<Tree::Created> Tree::tmpfile(Inode& parent, mode_t mode, int flags, const Caller& caller) {
  auto reservation = io_.reserve({{parent.charge.account, backing_.metadata()}}, Line::control);
  if (!reservation) return reservation.error();
  Created created;
  const std::lock_guard lock(parent.mutex);
  {
    const AsCaller as(caller);
    auto fd = backing_.sys().openat(parent.path.get(), ".",
                                    (flags & ~(handled_elsewhere | O_CREAT)) | O_TMPFILE, mode);
    if (!fd) return fd.error();
    created.fd = std::move(*fd);
  }
  auto path = backing_.sys().openat(AT_FDCWD, ProcPath(created.fd.get()).c_str(), O_PATH, 0);
  if (!path) return path.error();
  MeteredIo::Changes changes;
  auto entry = enter(parent, "", std::move(*path), &changes);
  if (!entry) return entry.error();
  {
    const std::lock_guard made(entry->inode->mutex);
    entry->inode->gone = true;
    table_.note_account(*entry->inode, ledger_.name(entry->inode->charge.account));
  }
  io_.commit(std::move(*reservation), {&parent}, changes);
  created.entry = std::move(*entry);
  return created;
}

Result<Entry> Tree::link(Replay& replay, Inode& inode, Inode& parent, const char* name) {
  const AccountId account = parent.charge.account;
  {
    const std::lock_guard lock(inode.mutex);
    const auto holders = inode.charge.accounts();
    if (inode.dead || std::find(holders.begin(), holders.end(), account) == holders.end())
      return Errno{EXDEV};
  }
  bool made_before = false;
  auto entry = make(
      replay, parent, name, inode.type,
      [&] { return backing_.sys().linkat(inode.path.get(), parent.path.get(), name); }, 0, &made_before);
  // What was made before the scan is counted by it.
  if (!entry || made_before) return entry;
  const std::lock_guard lock(inode.mutex);
  if (std::exchange(inode.gone, false)) {  // an O_TMPFILE got its first name
    table_.unmark_dying(inode);
  } else {
    auto& holders = inode.charge.holders;
    if (!holders) holders = std::make_unique<std::vector<Holder>>(1, Holder{inode.charge.account, 1});
    for (Holder& holder : *holders) holder.names += holder.account == account ? 1 : 0;
  }
  if (!inode.charge.is_disk && Accounts::is_disk(parent.charge.role, name, inode.type)) {
    inode.charge.is_disk = true;
    accounts_.put_disk(inode.id, account, name, inode.path.get(), entry->st);
  }
  return entry;
}

Result<Tree::Victim> Tree::look_at(Inode& parent, const char* name) {
  Victim victim;
  auto path = backing_.open(parent.path.get(), name, O_PATH | O_NOFOLLOW);
  if (!path) return path.error();
  victim.path = std::move(*path);
  const auto st = backing_.sys().fstat(victim.path.get());
  if (!st) return st.error();
  victim.st = *st;
  victim.id = table_.id_of(st->st_dev, st->st_ino);
  victim.inode = table_.find(victim.id);
  return victim;
}

// True where a name in `account` was the last that the tree has of this inode.
bool Tree::drop_name(Charge& charge, Inode* inode, AccountId account, MeteredIo::Changes* changes) {
  if (!charge.holders) return true;
  auto& holders = *charge.holders;
  const auto holder =
      std::find_if(holders.begin(), holders.end(), [&](const Holder& h) { return h.account == account; });
  if (holder == holders.end() || --holder->names > 0) return false;
  if (holders.size() == 1) {
    charge.holders.reset();
    return true;
  }
  const Bytes slack = inode != nullptr ? inode->slack : Bytes(0);
  changes->push_back({account, charge.bytes, Bytes(0), slack, Bytes(0), 0});
  holders.erase(holder);
  charge.account = holders.front().account;
  return false;
}

void Tree::name_gone(Victim victim, AccountId account, MeteredIo::Changes* changes) {
  Charge* charge = table_.find_charge(victim.id);
  if (charge == nullptr) return;
  std::unique_lock<std::mutex> lock;
  if (victim.inode) lock = std::unique_lock(victim.inode->mutex);
  const auto after = backing_.sys().fstat(victim.path.get());
  const bool no_link = after && (after->st_nlink == 0 || S_ISDIR(victim.st.st_mode));
  if (!drop_name(*charge, victim.inode.get(), account, changes) && !no_link) return;
  const Role role = charge->role;
  const AccountId own = charge->account;
  if (victim.inode) {
    victim.inode->gone = true;
    // A link outside the tree keeps the inode, and the kernel may keep it in its cache: it is not ours any
    // more.
    victim.inode->linked_outside = !no_link;
    table_.mark_dying(*victim.inode);
    const bool idle = victim.inode->opens == 0;
    if (idle) settler_.remove(*victim.inode);
    lock.unlock();
    victim.path.reset();
    if (idle && !no_link) let_die(victim.inode);
    forget(victim.id, 0);
  } else {
    give_back(*charge, Bytes(0), changes);
    if (charge->is_disk) accounts_.drop_disk(victim.id);
    table_.drop_charge(victim.id);
    victim.path.reset();
  }
  accounts_.closed(role, own);
}

// It may lose its last name while it is open.
void Tree::note_victim(const Victim& victim) {
  const Charge* charge = victim.inode ? table_.find_charge(victim.id) : nullptr;
  if (charge != nullptr) table_.note_account(*victim.inode, ledger_.name(charge->account));
}

Result<void> Tree::unlink(Replay& replay, Inode& parent, const char* name, bool directory) {
  const auto before = replay.earlier<TakesNameAway>();
  Victim gone;
  {
    const std::lock_guard lock(parent.mutex);
    auto victim = look_at(parent, name);
    // Carried out before, it has taken away what was there.
    if (before && (victim ? victim->id != before->inode : victim.error().value == ENOENT)) return {};
    if (!victim) return victim.error();
    replay.intend(TakesNameAway{victim->id});
    note_victim(*victim);
    const auto done = backing_.sys().unlinkat(parent.path.get(), name, directory ? AT_REMOVEDIR : 0);
    if (!done) return done;
    io_.commit(Reservation(), {&parent});
    gone = std::move(*victim);
  }
  // Without the parent's lock: a directory is locked after another only in ascending order of id.
  MeteredIo::Changes changes;
  name_gone(std::move(gone), parent.charge.account, &changes);
  ledger_.apply(changes.data(), changes.size());
  accounts_.changed(parent.charge.role, parent.charge.account, name);
  return {};
}

bool Tree::has_xattr(const Inode& inode, const char* name) const {
  const auto size = backing_.sys().getxattr(inode.path.get(), name, nullptr, 0);
  if (size || size.error().value != EACCES) return size.operator bool();
  // It may not be read; but listed it is.
  const auto bytes = backing_.sys().listxattr(inode.path.get(), nullptr, 0);
  std::string list(bytes ? *bytes : 0, 0);
  const auto got = backing_.sys().listxattr(inode.path.get(), list.data(), list.size());
  list.resize(got ? *got : 0);
  for (size_t at = 0; at < list.size(); at += std::strlen(list.c_str() + at) + 1) {
    if (std::strcmp(list.c_str() + at, name) == 0) return true;
  }
  return false;
}

bool Tree::xattr_is(const Inode& inode, const char* name, const void* value, size_t size) const {
  std::string there(size + 1, 0);
  const auto got = backing_.sys().getxattr(inode.path.get(), name, there.data(), there.size());
  return got && *got == size && std::memcmp(there.data(), value, size) == 0;
}

Result<void> Tree::setxattr(Replay& replay, Inode& inode, const char* name, const void* value, size_t size,
                            int flags) {
  // Carried out before, it needs no room; and what it was to make new may be made.
  if (replay.earlier<ChangesAttribute>()) {
    if (xattr_is(inode, name, value, size)) return {};
    flags &= ~XATTR_CREATE;
  }
  auto reservation = io_.reserve(io_.claims_of(inode, backing_.metadata(size)), Line::control);
  if (!reservation) return reservation.error();
  const std::lock_guard lock(inode.mutex);
  if (replay.notes_intents() && ((flags & XATTR_CREATE) == 0 || !has_xattr(inode, name)))
    replay.intend(ChangesAttribute{});
  const auto done = backing_.sys().setxattr(inode.path.get(), name, value, size, flags);
  io_.commit(std::move(*reservation), {&inode});
  return done;
}

Result<void> Tree::removexattr(Replay& replay, Inode& inode, const char* name) {
  const bool before = replay.earlier<ChangesAttribute>().has_value();
  const std::lock_guard lock(inode.mutex);
  const bool there = replay.notes_intents() && has_xattr(inode, name);
  if (!there && before) return {};
  if (there) replay.intend(ChangesAttribute{});
  const auto done = backing_.sys().removexattr(inode.path.get(), name);
  io_.commit(Reservation(), {&inode});
  if (!done && done.error().value == ENODATA && before) return {};
  return done;
}

}  // namespace limaquota
