#include "fs/daemon/supervisor.hpp"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "fs/daemon/mount_channel.hpp"
#include "fs/daemon/upgrading.hpp"
#include "fs/daemon/watchdog.hpp"
#include "fs/system/caller.hpp"
#include "fs/system/log.hpp"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_syscall_pre_impl_fork();
extern "C" void __sanitizer_syscall_post_impl_fork(long result);
#endif

namespace limaquota {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// How long the end may wait for requests under way.
constexpr auto end_patience = 5s;
// After each worker in a row that lived shorter than this the next one waits longer.
constexpr auto good_life = 10s;
constexpr auto delay_step = 1ms;
constexpr Clock::duration longest_delay = 10s;
constexpr auto death_patience = 10s;

// Like fork(2), but with one table of descriptors for both.
pid_t fork_with_descriptors() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  __sanitizer_syscall_pre_impl_fork();
#endif
  const auto pid =
      static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  __sanitizer_syscall_post_impl_fork(pid);
#endif
  return pid;
}

// What the supervisor waits for, and what ends the wait:
//
//   waiting     the delay after a short life is over: coming_up
//   coming_up   the worker serves: serving. It dies: waiting. As a new version it takes too long: it is
//   ended, and dies serving     it dies, or hangs and is ended: waiting. Another program is asked for: this
//   process goes on as that ending      the worker is gone, or was given its time: over
//
// In each but the last a signal that is to end the daemon leads to ending; a worker that ends by itself when
// the mount is gone, or that nobody can take over from, leads to over.
enum class State : uint8_t { waiting, coming_up, serving, ending, over };

class Supervisor {
 public:
  Supervisor(Notes& notes, const Supervised& supervised)
      : notes_(notes),
        supervised_(supervised),
        watchdog_(notes, supervised.mountpoint),
        upgrading_(notes),
        told_ready_(notes.process.ready) {
    ::sigemptyset(&signals_);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1, SIGUSR2})
      ::sigaddset(&signals_, signal);
    ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGCHLD, SIG_DFL);  // whoever started this may have ignored it: then no death is told
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }

  int run() {
    start();
    while (state_ != State::over) {
      wait_for_signal();
      if (notes_.process.ready && !std::exchange(told_ready_, true) && supervised_.ready) supervised_.ready();
      reap();
      switch (state_) {
        case State::waiting:
          if (upgrading_.is_asked()) upgrade();
          if (Clock::now() >= next_start_) start();
          break;
        case State::coming_up:
          look_at_coming_up();
          break;
        case State::serving:
          look_at_serving();
          break;
        case State::ending:
          end();
          break;
        case State::over:
          break;
      }
    }
    watchdog_.end();
    return status_;
  }

 private:
  bool has_worker() const { return worker_ > 0; }

  void start() {
    state_ = State::coming_up;
    started_ = Clock::now();
    watchdog_.worker_started();
    notes_.process.serving_since = 0;
    worker_ = fork_with_descriptors();
    if (worker_ == 0) work();
    if (has_worker()) return;
    log_error("cannot start a worker: {}", std::strerror(errno));
    if (notes_.connection.restartable) {
      wait_for_next();
    } else {
      be_over(1);
    }
  }

  [[noreturn]] void work() {
    const pid_t supervisor = notes_.process.supervisor;
    // Without a supervisor the next death would be the last, and nobody would know.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != supervisor) ::_exit(1);
    notes_.process.worker = ::getpid();
    // An ordinary user's first worker runs fusermount3 yet.
    if (::geteuid() == 0 || notes_.process.takes_over()) drop_privileges();
    int status = 1;
    // In a thread of its own, which the C library knows by its right id.
    std::thread([&] { status = supervised_.work(); }).join();
    std::exit(status);
  }

  void wait_for_signal() {
    const bool hurried = state_ == State::ending || state_ == State::waiting || upgrading_.is_under_way();
    const timespec most{hurried ? 0 : 1, hurried ? 1'000'000 : 0};
    siginfo_t what{};
    const int signal = ::sigtimedwait(&signals_, &what, &most);
    const bool ends = signal == SIGTERM || signal == SIGINT || signal == SIGHUP;
    if (ends && state_ != State::ending) {
      state_ = State::ending;
      ending_since_ = Clock::now();
    }
    if (signal == SIGUSR1) upgrading_.ask(what.si_code == SI_USER ? what.si_pid : 0);
  }

  void reap() {
    int how = 0;
    if (!has_worker() || ::waitpid(worker_, &how, WNOHANG) != worker_) return;
    worker_ = -1;
    const bool restartable = notes_.connection.restartable;
    if (notes_.process.gone || (WIFEXITED(how) && (WEXITSTATUS(how) == 0 || !restartable)))
      return be_over(WIFEXITED(how) ? WEXITSTATUS(how) : 0);
    if (state_ == State::ending) return;
    if (!restartable) {
      log_error("the worker was ended by signal {}: the mount is dead", WTERMSIG(how));
      if (!notes_.process.ready) take_back_mount();
      return be_over(1);
    }
    ++notes_.process.restarts;
    if (upgrading_.is_under_way()) upgrading_.go_back(watchdog_.prober());
    if (WIFSIGNALED(how)) {
      log_warning("the worker was ended by signal {}: another one takes over", WTERMSIG(how));
    } else {
      log_warning("the worker gave up: another one takes over");
    }
    wait_for_next();
  }

  // At once after a good life, else after a delay that grows.
  void wait_for_next() {
    state_ = State::waiting;
    const auto now = Clock::now();
    short_lives_ = now - started_ >= good_life ? 0 : short_lives_ + 1;
    next_start_ = now + std::min(longest_delay, short_lives_ * Clock::duration(delay_step));
  }

  // Whether a worker that does not answer may be ended: another one can take over, and the mount answered
  // before.
  bool may_be_replaced() const { return told_ready_ && notes_.connection.restartable; }

  void look_at_coming_up() {
    if (notes_.process.serving_since != 0) {
      state_ = State::serving;
      look_at_serving();
    } else if (may_be_replaced()) {
      if (upgrading_.is_overdue(started_)) ::kill(worker_, SIGKILL);
      watchdog_.look_at_coming_up();
    }
  }

  void look_at_serving() {
    upgrading_.look_at_serving(worker_);
    if (upgrading_.is_asked()) return upgrade();
    if (may_be_replaced() && watchdog_.hangs(worker_)) ::kill(worker_, SIGKILL);
  }

  // Comes back only where this process stays what it is.
  void upgrade() {
    upgrading_.go_on([this] { return end_worker(); }, watchdog_.prober());
    if (has_worker() || state_ == State::waiting) return;
    state_ = State::waiting;
    next_start_ = Clock::now();
  }

  // False where it does not die soon, waiting for a disk: then it is followed as one that crashed.
  bool end_worker() {
    if (!has_worker()) return true;
    ::kill(worker_, SIGKILL);
    const auto end = Clock::now() + death_patience;
    while (Clock::now() < end) {
      if (::waitpid(worker_, nullptr, WNOHANG) == worker_) {
        worker_ = -1;
        ++notes_.process.restarts;
        return true;
      }
      std::this_thread::sleep_for(1ms);
    }
    log_warning("no upgrade: the worker waits for a disk, and does not end");
    return false;
  }

  // It may be there already, though nobody has been told of it, and this process may not know its descriptor.
  void take_back_mount() {
    while (::waitpid(-1, nullptr, 0) > 0) {  // fusermount3, whose parent was the worker
    }
    (void)!notes_.inherit();  // closes what was the worker's alone
    struct stat st {};
    // Where the connection is known to be open, nobody would answer.
    if (notes_.connection.device != 0 ||
        (::stat(supervised_.mountpoint.c_str(), &st) != 0 && errno == ENOTCONN))
      detach_mount(supervised_.mountpoint);
  }

  void detach() {
    if (notes_.connection.device != 0 && !std::exchange(detached_, true))
      detach_mount(supervised_.mountpoint);
  }

  void end() {
    // A worker that takes over closes the descriptors that it does not know: none may be opened beside it.
    if (!has_worker() || notes_.process.serving_since != 0) detach();
    if (has_worker() && Clock::now() - ending_since_ >= end_patience) {
      log_warning("files are still open: they end with the mount");
      ::kill(worker_, SIGKILL);
      ::waitpid(worker_, nullptr, 0);
      worker_ = -1;
      detach();
    }
    if (!has_worker()) be_over(0);
  }

  void be_over(int status) {
    state_ = State::over;
    status_ = status;
  }

  Notes& notes_;
  const Supervised& supervised_;
  Watchdog watchdog_;
  Upgrading upgrading_;
  sigset_t signals_{};
  State state_ = State::waiting;
  pid_t worker_ = -1;
  Clock::time_point started_, next_start_, ending_since_;
  int short_lives_ = 0;  // in a row
  bool detached_ = false;
  bool told_ready_;
  int status_ = 0;
};

}  // namespace

int supervise(Notes& notes, const Supervised& supervised) {
  notes.process.supervisor = ::getpid();
  if (notes.process.worker == 0 && !notes.descriptors.mark_lasting()) {
    log_error("cannot see what is open: is /proc mounted?");
    return 1;
  }
  return Supervisor(notes, supervised).run();
}

}  // namespace limaquota
