#include "fs/tree/attributes.hpp"

#include <sys/xattr.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {

bool Attributes::has(const Inode& inode, const char* name) const {
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

bool Attributes::is(const Inode& inode, const char* name, const void* value, size_t size) const {
  std::string there(size + 1, 0);
  const auto got = backing_.sys().getxattr(inode.path.get(), name, there.data(), there.size());
  return got && *got == size && std::memcmp(there.data(), value, size) == 0;
}

Result<void> Attributes::set(Replay& replay, Inode& inode, const char* name, const void* value, size_t size,
                             int flags) {
  // Carried out before, it needs no room; and what it was to make new may be made.
  if (replay.earlier<ChangesAttribute>()) {
    if (is(inode, name, value, size)) return {};
    flags &= ~XATTR_CREATE;
  }
  auto reservation = admission_.reserve(claims_of(inode, backing_.metadata(size)), Line::control);
  if (!reservation) return reservation.error();
  const MutexLock lock(inode.mutex);
  if (replay.notes_intents() && ((flags & XATTR_CREATE) == 0 || !has(inode, name)))
    replay.intend(ChangesAttribute{});
  const auto done = backing_.sys().setxattr(inode.path.get(), name, value, size, flags);
  inode_charges_.commit(std::move(*reservation), {&inode});
  return done;
}

Result<void> Attributes::remove(Replay& replay, Inode& inode, const char* name) {
  const bool before = replay.earlier<ChangesAttribute>().has_value();
  const MutexLock lock(inode.mutex);
  const bool there = replay.notes_intents() && has(inode, name);
  if (!there && before) return {};
  if (there) replay.intend(ChangesAttribute{});
  const auto done = backing_.sys().removexattr(inode.path.get(), name);
  inode_charges_.commit(Reservation(), {&inode});
  if (!done && done.error().value == ENODATA && before) return {};
  return done;
}

}  // namespace limaquota
