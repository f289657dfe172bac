#include "fs/tree/limit_files_charge.hpp"

#include <fcntl.h>

#include <cerrno>
#include <string>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {

// What du says of a directory and all in it; nothing where something cannot be looked at. What has several
// names counts once.
std::optional<Bytes> LimitFilesCharge::bytes_below(int dir, std::string_view name, SeenLinks& seen) const {
  Sys& sys = backing_.sys();
  const std::string path(name);
  const auto st = sys.fstatat(dir, path.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return st.error().value == ENOENT ? std::optional(Bytes(0)) : std::nullopt;
  Bytes bytes = Bytes::of_st_blocks(st->st_blocks);
  if (!S_ISDIR(st->st_mode)) {
    const bool is_known = st->st_nlink > 1 && !seen.insert(st->st_ino).second;
    return is_known ? Bytes(0) : bytes;
  }
  const auto below = sys.openat(dir, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  const auto names = below ? read_names(sys, below->get()) : Result<std::vector<std::string>>(below.error());
  if (!names) return std::nullopt;
  for (const std::string& child : *names) {
    const auto more = bytes_below(below->get(), child, seen);
    if (!more) return std::nullopt;
    bytes += *more;
  }
  return bytes;
}

bool LimitFilesCharge::recount() {
  const MutexLock lock(mutex_);
  SeenLinks seen;
  const auto quota = bytes_below(backing_.root(), quota_directory, seen);
  const auto usage = bytes_below(backing_.root(), usage_directory, seen);
  unknown_ = !quota || !usage;
  if (unknown_) return false;
  const Bytes bytes = *quota + *usage;
  const Change change{accounts_.shared(), bytes_, bytes, Bytes(0), Bytes(0), 0};
  ledger_.apply(&change, 1);
  bytes_ = bytes;
  // The home directory itself may have grown by a name.
  if (const InodePtr root = table_.find(root_node)) {
    const MutexLock root_lock(root->mutex);
    inode_charges_.observe(*root);
  }
  return true;
}

void LimitFilesCharge::go_on() {
  if (unknown_ || backing_.rules().gives_back_by_itself) (void)recount();
}

}  // namespace limaquota
