#include "mount-helpers/reclaim/disk_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"

namespace limaquota {

DiskLock::DiskLock(const std::filesystem::path& disk)
    : path_(disk), file_(::open(disk.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)) {
  if (!file_) throw Refusal(fmt::format("{}: {}", escape_name(disk.string()), std::strerror(errno)));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 100;
  lock.l_len = 104;
  if (::fcntl(file_.get(), F_OFD_SETLK, &lock) == 0) return;
  if (errno == EAGAIN || errno == EACCES) {
    throw Refusal(fmt::format("{} is in use; stop what uses it (limactl stop NAME) and try again",
                              escape_name(disk.string())));
  }
  throw Refusal(fmt::format("cannot lock {}: {}", escape_name(disk.string()), std::strerror(errno)));
}

}  // namespace limaquota
