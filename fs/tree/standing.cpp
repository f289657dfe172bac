#include "fs/tree/standing.hpp"

#include <fcntl.h>

#include <utility>

namespace limaquota {

Result<Standing> look_at(const Backing& backing, InodeTable& table, int dir, const char* name) {
  Standing standing;
  auto path = backing.open(dir, name, O_PATH | O_NOFOLLOW);
  if (!path) return path.error();
  standing.path = std::move(*path);
  const auto st = backing.sys().fstat(standing.path.get());
  if (!st) return st.error();
  standing.st = *st;
  standing.id = table.id_of(st->st_dev, st->st_ino);
  return standing;
}

}  // namespace limaquota
