#include "mount-helpers/programs/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <system_error>
#include <utility>

#include <fmt/core.h>

#include "fs/system/fd.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds grace{2000};

struct Pipe {
  Fd read_end, write_end;
};

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  return {Fd(ends[0]), Fd(ends[1])};
}

// A writer whose reader has gone gets EPIPE, not a signal, while this object lives.
class NoSigpipe {
 public:
  NoSigpipe() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  ~NoSigpipe() {
    const timespec now{};
    while (::sigtimedwait(&set_, nullptr, &now) > 0) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t set_{};
  sigset_t before_{};
};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  result.reserve(words.size() + 1);
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(const std::vector<std::string>& added) {
  std::vector<std::string> all = added;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view key = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& own : added) replaced = replaced || own.starts_with(key);
    if (!replaced) all.emplace_back(text);
  }
  return all;
}

// A started program and our ends of its pipes.
class Child {
 public:
  Child(std::vector<std::string> words, const RunOptions& options) {
    Pipe in = make_pipe();
    Pipe out = make_pipe(), err = make_pipe();
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in.read_end.get(), STDIN_FILENO);
    if (!options.show) {
      ::posix_spawn_file_actions_adddup2(&actions, out.write_end.get(), STDOUT_FILENO);
      ::posix_spawn_file_actions_adddup2(&actions, err.write_end.get(), STDERR_FILENO);
    }
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t none, defaults;
    ::sigemptyset(&none);
    ::sigemptyset(&defaults);
    ::sigaddset(&defaults, SIGPIPE);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(&attributes,
                               POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::vector<std::string> environment = environment_with(options.environment);
    error_ = ::posix_spawnp(&pid_, words.at(0).c_str(), &actions, &attributes, pointers(words).data(),
                            pointers(environment).data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error_ != 0) return;
    input_ = std::move(in.write_end);
    ::fcntl(input_.get(), F_SETFL, O_NONBLOCK);
    output_ = std::move(out.read_end);
    errors_ = std::move(err.read_end);
  }

  int error() const { return error_; }

  Ended wait(const RunOptions& options) {
    const NoSigpipe no_sigpipe;
    Ended ended;
    std::string_view input = options.input;
    if (input.empty()) input_.reset();
    std::optional<Clock::time_point> until;
    if (options.deadline) until = Clock::now() + *options.deadline;
    int status = 0;
    bool gone = false, killed = false;
    while (!gone || output_ || errors_) {
      if (!gone) gone = ::waitpid(pid_, &status, WNOHANG) == pid_;
      // What a grandchild in the background holds open is not waited for.
      const bool got = pump(input, options, ended, gone ? 0 : 50);
      if (gone && !got) break;
      const bool stop = !gone && !ended.timed_out && options.keep_on && !options.keep_on();
      if (!gone && (stop || (until && Clock::now() >= *until))) {
        // What waits for a filesystem that hangs cannot be killed: it is left alone.
        if (killed) break;
        killed = ended.timed_out;
        ::kill(-pid_, killed ? SIGKILL : SIGTERM);
        ended.timed_out = true;
        until = Clock::now() + grace;
      }
    }
    if (!gone) status = SIGKILL;  // as waitpid() will say
    ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return ended;
  }

 private:
  // Moves what is there; true where anything came.
  bool pump(std::string_view& input, const RunOptions& options, Ended& ended, int milliseconds) {
    std::array<pollfd, 3> polled = {{{output_ ? output_.get() : -1, POLLIN, 0},
                                     {errors_ ? errors_.get() : -1, POLLIN, 0},
                                     {input_ ? input_.get() : -1, POLLOUT, 0}}};
    if (::poll(polled.data(), polled.size(), milliseconds) <= 0) return false;
    bool got = false;
    if (polled[0].revents != 0) got = take(output_, ended.out, options.on_output) || got;
    if (polled[1].revents != 0) got = take(errors_, ended.err, nullptr) || got;
    if (polled[2].revents != 0) {
      const ssize_t put = ::write(input_.get(), input.data(), input.size());
      if (put > 0) input.remove_prefix(static_cast<size_t>(put));
      if (input.empty() || (put < 0 && errno != EAGAIN && errno != EINTR)) input_.reset();
    }
    return got;
  }

  static bool take(Fd& from, std::string& text, const std::function<void(std::string_view)>& on_output) {
    std::array<char, 65536> part;
    const ssize_t got = ::read(from.get(), part.data(), part.size());
    if (got <= 0) {
      if (got == 0 || errno != EINTR) from.reset();
      return false;
    }
    const std::string_view piece(part.data(), static_cast<size_t>(got));
    text += piece;
    if (on_output) on_output(piece);
    return true;
  }

  int error_ = 0;
  pid_t pid_ = -1;
  Fd input_, output_, errors_;
};

}  // namespace

std::string Ended::complaint() const {
  const std::string& text = err.find_first_not_of(" \n\t") != std::string::npos ? err : out;
  const size_t start = text.find_first_not_of(" \n\t");
  if (start == std::string::npos) return timed_out ? "no end in time" : fmt::format("status {}", status);
  return text.substr(start, text.find('\n', start) - start);
}

Ended run_program(const std::vector<std::string>& words, const RunOptions& options) {
  Child child(words, options);
  if (child.error() == 0) return child.wait(options);
  Ended ended;
  ended.status = 127;
  ended.err = fmt::format("{}: {}", words.at(0), std::strerror(child.error()));
  return ended;
}

std::optional<std::filesystem::path> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream directories(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path);
  for (std::string directory; std::getline(directories, directory, ':');) {
    const std::filesystem::path candidate = std::filesystem::path(directory.empty() ? "." : directory) / name;
    std::error_code error;
    if (std::filesystem::is_regular_file(candidate, error) && ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return std::nullopt;
}

}  // namespace limaquota
