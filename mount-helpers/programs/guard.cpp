#include "mount-helpers/programs/guard.hpp"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace limaquota {
namespace {

// In the guard's process: waits for a byte (dismissed) or for the end of the line (its maker is dead).
[[noreturn]] void keep_watch(int line, const std::function<void()>& cleanup) {
  ::setsid();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(signal, SIG_IGN);
  char byte = 0;
  ssize_t got = 0;
  do {
    got = ::read(line, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got == 0) {
    try {
      cleanup();
    } catch (...) {  // nobody is left to be told
    }
  }
  ::_exit(0);
}

}  // namespace

Guard::Guard(const std::function<void()>& cleanup) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::system_error(errno, std::generic_category(), "socketpair");
  }
  const Fd watched(ends[0]);
  alive_ = Fd(ends[1]);
  pid_ = ::fork();
  if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid_ != 0) return;
  alive_.reset();
  keep_watch(watched.get(), cleanup);
}

Guard::~Guard() {
  while (::send(alive_.get(), "", 1, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace limaquota
