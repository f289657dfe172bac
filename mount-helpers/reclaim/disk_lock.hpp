// Keeps QEMU away from a disk file, and notices others.
#pragma once

#include <filesystem>

#include "fs/system/fd.hpp"

namespace limaquota {

// An open disk file that no QEMU has and that none can open while the lock is held: an exclusive lock on the
// bytes 100 to 203 with which QEMU marks what it does with an image (block/file-posix.c, RAW_LOCK_PERM_BASE
// and RAW_LOCK_SHARED_BASE). The lock belongs to the open file description (F_OFD_SETLK): a child that
// inherits the descriptor holds it too. Thread safety: a value type.
class DiskLock {
 public:
  // Throws Refusal where the file is in use or cannot be opened.
  explicit DiskLock(const std::filesystem::path& disk);

  // What is no QEMU takes no such lock: throws Refusal where anybody else has the file open now, this process
  // by another descriptor included. Can be known only where the filesystem has leases, of one's own files.
  void refuse_others() const;

  const std::filesystem::path& path() const { return path_; }
  int fd() const { return file_.get(); }

 private:
  std::filesystem::path path_;
  Fd file_;
};

}  // namespace limaquota
