#include "fs/daemon/watchdog.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include "fs/system/fd.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {

using namespace std::chrono_literals;
// A worker that answers nothing for so long hangs.
constexpr auto hang_after = 10s;
constexpr auto probe_interval = 2s;

// Its name is another from the first: whoever looks for the worker must not find it.
pid_t fork_prober() {
  std::array<char, 16> own{};
  ::prctl(PR_GET_NAME, own.data());
  ::prctl(PR_SET_NAME, "limaquota-probe");
  const pid_t pid = ::fork();
  if (pid != 0) ::prctl(PR_SET_NAME, own.data());
  return pid;
}

[[noreturn]] void probe(Notes& notes, const char* path) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It must not keep the mount alive.
  ::close_range(0, ~0U, 0);
  while (::getppid() == notes.process.supervisor) {
    struct stat st {};
    (void)::stat(path, &st);  // whatever it says, it is an answer
    notes.process.answered = std::chrono::steady_clock::now().time_since_epoch().count();
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

}  // namespace

Watchdog::Watchdog(Notes& notes, std::string mountpoint)
    : notes_(notes), path_(std::move(mountpoint) + "/.usage/_host") {
  if (notes.process.prober > 0) prober_ = notes.process.prober;
}

void Watchdog::worker_started() {
  started_ = Clock::now();
  told_slow_ = false;
}

void Watchdog::look_at_coming_up() {
  if (Clock::now() - started_ > hang_after && !std::exchange(told_slow_, true))
    log_warning("the new worker still reads the home, after 10 s: the mount answers when it is done");
}

void Watchdog::keep_asking(Clock::time_point now) {
  if (prober_ >= 0 && ::waitpid(prober_, nullptr, WNOHANG) != prober_) return;
  forgiven_ = now;
  prober_ = fork_prober();
  if (prober_ == 0) probe(notes_, path_.c_str());
}

bool Watchdog::hangs(pid_t worker) {
  const auto now = Clock::now();
  // Time in which this process did not run either tells nothing.
  if (now - std::exchange(last_look_, now) > hang_after / 2) forgiven_ = now;
  keep_asking(now);
  const Clock::time_point answered{Clock::duration(notes_.process.answered.load())};
  const Clock::time_point serving_since{Clock::duration(notes_.process.serving_since.load())};
  if (now - std::max({answered, serving_since, forgiven_}) < hang_after) return false;
  forgiven_ = now;  // it may need a while to die
  if (is_stopped(worker)) return false;
  log_error("the worker has not answered for 10 s: it is ended, for another one to take over");
  return true;
}

// It may wait for an answer that no worker gives any more: that ends with the connection.
void Watchdog::end() {
  if (prober_ < 0) return;
  (void)!notes_.inherit();  // closes what was the worker's alone
  if (notes_.connection.device != 0) ::close(notes_.connection.device - 1);
  ::kill(prober_, SIGKILL);
  ::waitpid(prober_, nullptr, 0);
}

}  // namespace limaquota
