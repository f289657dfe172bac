#include "mount-helpers/programs/companion.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "mount-helpers/command/refusal.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds look_again{100};
constexpr std::chrono::seconds grace{10};  // a storage daemon writes its caches

std::string text_from(const Fd& file, off_t& position) {
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t got = 0; (got = ::pread(file.get(), part.data(), part.size(), position)) > 0;) {
    text.append(part.data(), static_cast<size_t>(got));
    position += got;
  }
  return text;
}

// In the child. Returns only where the program cannot be started.
void become(const std::vector<std::string>& words, const std::vector<int>& keep, pid_t parent, int out,
            int err) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // it died before the line above
  ::setpgid(0, 0);
  ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  for (const int fd : keep) ::fcntl(fd, F_SETFD, 0);
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
}

}  // namespace

Companion::Companion(const std::vector<std::string>& words, const std::vector<int>& keep,
                     const std::vector<std::string>& environment)
    : out_(::memfd_create("out", MFD_CLOEXEC)), err_(::memfd_create("err", MFD_CLOEXEC)) {
  int ends[2];
  if (!out_ || !err_ || ::pipe2(ends, O_CLOEXEC) != 0) {
    throw Refusal(fmt::format("cannot start {}: {}", words.at(0), std::strerror(errno)));
  }
  const Fd failed(ends[0]);
  Fd tell(ends[1]);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) throw Refusal(fmt::format("cannot start {}: {}", words.at(0), std::strerror(errno)));
  if (pid_ == 0) {
    for (const std::string& entry : environment) ::putenv(const_cast<char*>(entry.c_str()));
    become(words, keep, parent, out_.get(), err_.get());
    const int error = errno;
    ::_exit(::write(tell.get(), &error, sizeof error) == sizeof error ? 127 : 126);
  }
  tell.reset();
  int error = 0;
  if (::read(failed.get(), &error, sizeof error) == sizeof error) {
    end();
    throw Refusal(fmt::format("cannot start {}: {}", words.at(0), std::strerror(error)));
  }
}

Companion::~Companion() { end(); }

bool Companion::runs(std::chrono::milliseconds patience) {
  const auto until = Clock::now() + patience;
  while (!gone_) {
    gone_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    if (gone_ || left.count() <= 0) break;
    ::poll(nullptr, 0, static_cast<int>(std::min(left, std::chrono::milliseconds(20)).count()));
  }
  return !gone_;
}

std::string Companion::new_output() { return text_from(out_, read_); }

void Companion::end() {
  if (gone_) return;
  ::kill(-pid_, SIGTERM);
  if (runs(grace)) ::kill(-pid_, SIGKILL);
  while (runs(look_again)) {
  }
}

Ended Companion::wait(const std::function<void()>& look) {
  while (runs(look_again)) {
    if (look) look();
  }
  Ended ended;
  ended.status = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  off_t start = 0;
  ended.out = text_from(out_, start);
  start = 0;
  ended.err = text_from(err_, start);
  return ended;
}

}  // namespace limaquota
