// Cleans up after a process that was killed.
#pragma once

#include <sys/types.h>

#include <functional>

#include "fs/system/fd.hpp"

namespace limaquota {

// A small process that does `cleanup` if this one dies while the object lives, by SIGKILL too; it outlives
// the signals of a terminal. It keeps what is open here open, locks included, until it is done. For a process
// with one thread: `cleanup` runs in a fork. Not thread safe.
class Guard {
 public:
  // Throws std::system_error.
  explicit Guard(const std::function<void()>& cleanup);
  ~Guard();  // all went well, or an exception is under way: no cleanup
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  pid_t pid_ = -1;
  Fd alive_;
};

}  // namespace limaquota
