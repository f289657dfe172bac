#include "mount-helpers/home/mount_state.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/paths.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds between_questions{50};

// Copies the file to `to`, and after it one byte: its errno, or 0. Between fork and exec of a process that
// may have threads: only system calls.
[[noreturn]] void read_in_child(const char* path, int to) {
  if (to > 0) ::close_range(0, static_cast<unsigned>(to) - 1, 0);
  ::close_range(static_cast<unsigned>(to) + 1, ~0U, 0);
  std::array<char, 16384> part;
  const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t got = file;
  while (got >= 0) {
    got = ::read(file, part.data(), part.size());
    if (got <= 0) break;
    for (ssize_t put = 0, now = 0; put < got; put += now) {
      now = ::write(to, part.data() + put, static_cast<size_t>(got - put));
      if (now < 0) ::_exit(1);
    }
  }
  const char error = static_cast<char>(got < 0 ? errno : 0);
  [[maybe_unused]] const ssize_t written = ::write(to, &error, 1);
  ::_exit(0);
}

}  // namespace

ReadApart::ReadApart(const std::string& path) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    done_ = true;
    error_ = errno;
    return;
  }
  answer_ = Fd(ends[0]);
  const Fd to(ends[1]);
  child_ = ::fork();
  if (child_ == 0) read_in_child(path.c_str(), to.get());
  if (child_ < 0) {
    done_ = true;
    error_ = errno;
  }
}

ReadApart::~ReadApart() {
  if (child_ <= 0) return;
  if (!done_) ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, done_ ? 0 : WNOHANG);
}

bool ReadApart::wait(std::chrono::milliseconds time, const std::function<bool()>& keep_on) {
  const auto until = Clock::now() + time;
  while (!done_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
    pollfd polled{answer_.get(), POLLIN, 0};
    const auto patience = std::clamp(left, std::chrono::milliseconds(0), between_questions);
    if (::poll(&polled, 1, static_cast<int>(patience.count())) > 0) {
      take();
    } else if (left.count() <= 0 || (keep_on && !keep_on())) {
      return false;
    }
  }
  return true;
}

void ReadApart::take() {
  std::array<char, 16384> part;
  const ssize_t got = ::read(answer_.get(), part.data(), part.size());
  if (got > 0) text_.append(part.data(), static_cast<size_t>(got));
  if (got > 0 || (got < 0 && errno == EINTR)) return;
  done_ = true;
  // One that was killed says nothing, or not all.
  error_ = text_.empty() ? EIO : static_cast<unsigned char>(text_.back());
  if (!text_.empty()) text_.pop_back();
}

MountState mount_state(const std::string& directory, std::chrono::milliseconds deadline) {
  if (!is_mountpoint(directory)) return MountState::none;
  ReadApart reading(directory + "/.usage/_host");  // opening a file is never answered by the kernel's caches
  if (!reading.wait(deadline)) return MountState::hung;
  return reading.error() == ENOTCONN ? MountState::dead : MountState::alive;
}

std::string hung_text(const std::string& home) {
  return fmt::format(
      "the daemon of {} does not answer: look at its log; \"limaquota umount --lazy {}\" takes the mount "
      "away, and VMs that run from it hang with it",
      escape_words(home), shell_quoted(home));
}

void refuse_hung(const std::string& directory) {
  if (mount_state(directory) == MountState::hung) throw Refusal(hung_text(directory));
}

}  // namespace limaquota
