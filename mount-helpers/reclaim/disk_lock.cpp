#include "mount-helpers/reclaim/disk_lock.hpp"

#include <fcntl.h>
#include <fmt/core.h>

#include <cerrno>
#include <cstring>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {

DiskLock::DiskLock(const std::filesystem::path& disk)
    : path_(disk), file_(::open(disk.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)) {
  if (!file_) throw Refusal(fmt::format("{}: {}", escape_name(disk.string()), std::strerror(errno)));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 100;
  lock.l_len = 104;
  if (::fcntl(file_.get(), F_OFD_SETLK, &lock) == 0) {
    refuse_others();
    return;
  }
  if (errno == EAGAIN || errno == EACCES) {
    throw Refusal(fmt::format("{} is in use; stop what uses it (limactl stop NAME) and try again",
                              escape_name(disk.string())));
  }
  throw Refusal(fmt::format("cannot lock {}: {}", escape_name(disk.string()), std::strerror(errno)));
}

// A write lease is granted only where nobody else has the file open; it is given back at once.
void DiskLock::refuse_others() const {
  if (::fcntl(file_.get(), F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(file_.get(), F_SETLEASE, F_UNLCK);
  } else if (errno == EAGAIN) {
    throw Refusal(fmt::format("{} is open in another process (a loop device, a copy?); end that first",
                              escape_name(path_.string())));
  }  // else there are no leases here, or not for this user
}

}  // namespace limaquota
