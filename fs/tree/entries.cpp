#include "fs/tree/entries.hpp"

#include <fcntl.h>

#include <cerrno>
#include <utility>

namespace limaquota {
namespace {

constexpr mode_t set_id_bits = S_ISUID | S_ISGID;

// What st_ino the kernel is to see: in a subvolume inode numbers start anew, and the mount shows one device.
void show(const Inode& inode, struct stat& st) {
  if (inode.id != root_node && inode.id != st.st_ino) st.st_ino = inode.id;
}

}  // namespace

void Entries::make_room_for_one() {
  if (!kernel_.knows_too_many()) return;
  settler_.hurry();
  (void)kernel_.wait_for_forgetting();
}

Result<Entry> Entries::lookup(Inode& parent, const char* name) {
  make_room_for_one();
  return find(parent, name);
}

Result<Entry> Entries::find(Inode& parent, const char* name) {
  auto path = backing_.open(parent.path.get(), name, O_PATH | O_NOFOLLOW);
  if (!path) return path.error();
  Changes changes;
  auto entry = enter(parent, name, std::move(*path), changes);
  if (!changes.empty()) ledger_.apply(changes.data(), changes.size());
  return entry;
}

Result<Entry> Entries::enter(Inode& parent, const char* name, Fd path, Changes& changes) {
  const auto st = backing_.sys().fstat(path.get());
  if (!st) return st.error();
  const NodeId id = table_.id_of(st->st_dev, st->st_ino);
  const Charges::Found found{id, path.get(), *st, backing_.sys().file_handle(path.get(), "")};
  charges_.drop_stale(found, changes);
  if (!table_.has_charge(id)) {
    const Child child = accounts_.child_of(parent.role(), parent.account(), name, st->st_mode);
    charges_.add(found, child, name, changes);
  }
  return enter_known(id, std::move(path), parent.id, name, *st, found.handle);
}

void Entries::describe(Inode& inode, const struct stat& st, const std::string& handle) const {
  inode.generation = generation_of(handle);
  inode.device = st.st_dev;
  inode.type = st.st_mode & S_IFMT;
  inode.size = static_cast<uint64_t>(st.st_size);
  inode.extents_at_most = backing_.blocks_of(st) + 1;
}

Entry Entries::enter_known(NodeId id, Fd path, NodeId parent, const char* name, const struct stat& st,
                           const std::string& handle) {
  Entry entry;
  entry.st = st;
  entry.inode =
      table_.enter(id, std::move(path), parent, name, [&](Inode& inode) { describe(inode, st, handle); });
  if ((st.st_mode & set_id_bits) != 0) entry.inode->may_have_set_id = true;
  show(*entry.inode, entry.st);
  if (kernel_.knows_many()) settler_.hurry();
  return entry;
}

Result<Entry> Entries::reopen(NodeId id) {
  // The kernel forgot it, but it is on the settle list or open.
  if (Entry known{table_.enter_again(id), {}}; known.inode) {
    const auto st = attributes(*known.inode);
    if (st) {
      known.st = *st;
      return known;
    }
    ends_.forget(id, 1);
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

Result<struct stat> Entries::attributes(Inode& inode) {
  auto st = backing_.sys().fstat(inode.path.get());
  if (!st) return st;
  if ((st->st_mode & set_id_bits) != 0) inode.may_have_set_id = true;
  show(inode, *st);
  return st;
}

}  // namespace limaquota
