#include "fs/daemon/supervisor.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "fs/daemon/mount_channel.hpp"
#include "fs/daemon/upgrade.hpp"
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
// A worker that answers nothing for so long hangs. `.usage` never waits for a disk, so a slow one is no hang.
constexpr auto hang_after = 10s;
constexpr auto probe_interval = 2s;
// A new version has so long to come up, and serves for so long before the one before is given up.
constexpr auto upgrade_patience = 60s;
constexpr auto proof_of_life = 2s;
constexpr auto death_patience = 10s;

// Its name is another from the first: whoever looks for the worker must not find it.
pid_t fork_prober() {
  std::array<char, 16> own{};
  ::prctl(PR_GET_NAME, own.data());
  ::prctl(PR_SET_NAME, "limaquota-probe");
  const pid_t pid = ::fork();
  if (pid != 0) ::prctl(PR_SET_NAME, own.data());
  return pid;
}

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

// Asks the mount now and then: in a process of its own, since the question may never be answered.
[[noreturn]] void probe(Notes& notes, const char* path) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It must not keep the mount alive.
  ::close_range(0, ~0U, 0);
  while (::getppid() == notes.process.supervisor) {
    struct stat st {};
    (void)::stat(path, &st);  // whatever it says, it is an answer
    notes.process.answered = Clock::now().time_since_epoch().count();
    std::this_thread::sleep_for(probe_interval);
  }
  ::_exit(0);
}

// Whether somebody stopped the process (SIGSTOP, a suspended session, a debugger): it is not to blame then.
bool is_stopped(pid_t process) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", process);
  const Fd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t size = ::read(file.get(), text, sizeof text - 1);
  if (size <= 0) return false;
  text[size] = 0;
  const char* name_end = std::strrchr(text, ')');
  return name_end != nullptr && name_end[1] != 0 && (name_end[2] == 'T' || name_end[2] == 't');
}

class Supervisor {
 public:
  Supervisor(Notes& notes, const Supervised& supervised)
      : notes_(notes), supervised_(supervised), told_ready_(notes.process.ready) {
    if (notes.process.prober > 0) prober_ = notes.process.prober;
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
    while (!status_) {
      wait_for_signal();
      if (notes_.process.ready && !told_ready_) {
        told_ready_ = true;
        if (supervised_.ready) supervised_.ready();
      }
      reap();
      end_upgrade();
      upgrade();
      end_hang();
      if (worker_ < 0 && !status_ && !ending_ && Clock::now() >= next_start_) start();
      end();
    }
    end_prober();
    return *status_;
  }

 private:
  void start() {
    started_ = Clock::now();
    told_slow_ = false;
    notes_.process.serving_since = 0;
    worker_ = fork_with_descriptors();
    if (worker_ == 0) work();
    if (worker_ > 0) return;
    log_error("cannot start a worker: {}", std::strerror(errno));
    if (notes_.connection.restartable) return later();
    status_ = 1;
  }

  [[noreturn]] void work() {
    const pid_t supervisor = notes_.process.supervisor;
    // Without a supervisor the next death would be the last, and nobody would know.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != supervisor) ::_exit(1);
    notes_.process.worker = ::getpid();
    // An ordinary user's first worker runs fusermount3 yet.
    if (::geteuid() == 0 || notes_.process.restarts > 0) drop_privileges();
    int status = 1;
    // In a thread of its own, which the C library knows by its right id.
    std::thread([&] { status = supervised_.work(); }).join();
    std::exit(status);
  }

  void wait_for_signal() {
    const bool hurried = ending_ || worker_ < 0 || notes_.upgrade.previous != 0;
    const timespec most{hurried ? 0 : 1, hurried ? 1'000'000 : 0};
    siginfo_t what{};
    const int signal = ::sigtimedwait(&signals_, &what, &most);
    if ((signal == SIGTERM || signal == SIGINT || signal == SIGHUP) && !ending_) ending_ = Clock::now();
    if (signal == SIGUSR1) asker_ = what.si_code == SI_USER ? what.si_pid : 0;
  }

  // --- going on as another program, see fs/daemon/upgrade.hpp ---

  // When it is asked for, and not beside a worker that takes over.
  void upgrade() {
    if (!asker_ || ending_ || notes_.upgrade.previous != 0 ||
        (worker_ > 0 && notes_.process.serving_since == 0))
      return;
    const pid_t asker = *asker_;
    asker_.reset();
    if (!notes_.connection.restartable) log_warning("no upgrade: nobody can take over from this worker");
    const auto binary = notes_.connection.restartable ? binary_of(asker, notes_) : std::nullopt;
    Fd own(binary ? ::open("/proc/self/exe", O_PATH | O_CLOEXEC) : -1);
    if (!own || !end_worker()) {
      ++notes_.upgrade.refused;
      return;
    }
    notes_.process.prober = prober_;
    notes_.descriptors.of(own.get()).set_use(DescriptorUse::lasting);
    notes_.upgrade.previous = own.release() + 1;
    become(binary->get(), notes_);
    forget_previous();
    ++notes_.upgrade.failed;
  }

  // False where it does not die soon, waiting for a disk: then it is followed as one that crashed.
  bool end_worker() {
    if (worker_ < 0) return true;
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

  // The program before is kept until this one has shown that it can serve: it answered, and lived for a
  // while.
  void end_upgrade() {
    if (notes_.upgrade.previous == 0 || notes_.process.serving_since == 0 || worker_ < 0) return;
    const auto now = Clock::now().time_since_epoch();
    if (notes_.process.answered <= notes_.process.serving_since ||
        now - Clock::duration(notes_.process.serving_since) < proof_of_life)
      return;
    forget_previous();
    ++notes_.upgrade.done;
    log_info("upgraded: the worker is process {} now", worker_);
  }

  void go_back() {
    log_error("the new version does not come up: going back to the one before");
    const int previous = notes_.upgrade.previous - 1;
    notes_.upgrade.previous = 0;
    ++notes_.upgrade.failed;
    notes_.process.prober = prober_;
    become(previous, notes_);
  }

  void forget_previous() {
    const int previous = notes_.upgrade.previous - 1;
    notes_.upgrade.previous = 0;
    notes_.descriptors.of(previous).set_use(DescriptorUse::passing);
    ::close(previous);
  }

  void reap() {
    int how = 0;
    if (worker_ < 0 || ::waitpid(worker_, &how, WNOHANG) != worker_) return;
    worker_ = -1;
    if (notes_.process.gone ||
        (WIFEXITED(how) && (WEXITSTATUS(how) == 0 || !notes_.connection.restartable))) {
      status_ = WIFEXITED(how) ? WEXITSTATUS(how) : 0;
      return;
    }
    if (ending_) return;
    if (!notes_.connection.restartable) {
      log_error("the worker was ended by signal {}: the mount is dead", WTERMSIG(how));
      if (!notes_.process.ready) take_back_mount();
      status_ = 1;
      return;
    }
    ++notes_.process.restarts;
    if (notes_.upgrade.previous != 0) go_back();
    if (WIFSIGNALED(how)) {
      log_warning("the worker was ended by signal {}: another one takes over", WTERMSIG(how));
    } else {
      log_warning("the worker gave up: another one takes over");
    }
    later();
  }

  // At once after a good life, else after a delay that grows.
  void later() {
    const auto now = Clock::now();
    short_lives_ = now - started_ >= good_life ? 0 : short_lives_ + 1;
    next_start_ = now + std::min(longest_delay, short_lives_ * Clock::duration(delay_step));
  }

  void end_hang() {
    if (!told_ready_ || !notes_.connection.restartable || worker_ < 0 || ending_) return;
    const auto now = Clock::now();
    // How long it takes over depends on the disk: nobody can tell a slow one from a hang.
    const Clock::time_point serving_since{Clock::duration(notes_.process.serving_since.load())};
    if (serving_since == Clock::time_point{}) {
      if (notes_.upgrade.previous != 0 && now - started_ > upgrade_patience) ::kill(worker_, SIGKILL);
      if (now - started_ > hang_after && !std::exchange(told_slow_, true))
        log_warning("the new worker still reads the home, after 10 s: the mount answers when it is done");
      return;
    }
    // Time in which this process did not run either tells nothing.
    if (now - std::exchange(last_look_, now) > hang_after / 2) forgiven_ = now;
    if (prober_ < 0 || ::waitpid(prober_, nullptr, WNOHANG) == prober_) {
      forgiven_ = now;
      const std::string path = supervised_.mountpoint + "/.usage/_host";
      prober_ = fork_prober();
      if (prober_ == 0) probe(notes_, path.c_str());
    }
    const Clock::time_point answered{Clock::duration(notes_.process.answered.load())};
    if (now - std::max({answered, serving_since, forgiven_}) < hang_after) return;
    if (is_stopped(worker_)) {
      forgiven_ = now;
      return;
    }
    log_error("the worker has not answered for 10 s: it is ended, for another one to take over");
    ::kill(worker_, SIGKILL);
    forgiven_ = now;  // it may need a while to die
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
    if (!ending_ || status_) return;
    // A worker that takes over closes the descriptors that it does not know: none may be opened beside it.
    if (worker_ < 0 || notes_.process.serving_since != 0) detach();
    if (worker_ > 0 && Clock::now() - *ending_ >= end_patience) {
      log_warning("files are still open: they end with the mount");
      ::kill(worker_, SIGKILL);
      ::waitpid(worker_, nullptr, 0);
      worker_ = -1;
      detach();
    }
    if (worker_ < 0) status_ = 0;
  }

  // It may wait for an answer that no worker gives any more: that ends with the connection.
  void end_prober() {
    if (prober_ < 0) return;
    if (notes_.connection.device != 0) ::close(notes_.connection.device - 1);
    ::kill(prober_, SIGKILL);
    ::waitpid(prober_, nullptr, 0);
  }

  Notes& notes_;
  const Supervised& supervised_;
  sigset_t signals_{};
  pid_t worker_ = -1;
  Clock::time_point started_, next_start_;
  int short_lives_ = 0;  // in a row
  std::optional<Clock::time_point> ending_;
  std::optional<pid_t> asker_;  // for an upgrade; 0: nobody knows
  bool detached_ = false;
  bool told_ready_;
  bool told_slow_ = false;  // of this worker
  pid_t prober_ = -1;
  Clock::time_point last_look_, forgiven_;
  std::optional<int> status_;
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
