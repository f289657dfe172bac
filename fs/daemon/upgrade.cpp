#include "fs/daemon/upgrade.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "fs/system/log.hpp"
#include "fs/system/mountinfo.hpp"

namespace limaquota {
namespace {

using namespace std::chrono_literals;
constexpr auto longest_try = 10s;
constexpr auto longest_upgrade = 2min;
constexpr auto look_interval = 100ms;

std::string what_to_say(const Notes& notes) { return fmt::format("takes over {}\n", notes.layout); }

std::string link_text(const std::string& path) {
  char text[PATH_MAX];
  const ssize_t size = ::readlink(path.c_str(), text, sizeof text);
  return size > 0 ? std::string(text, static_cast<size_t>(size)) : std::string();
}

// Where this program was read from, though another file may lie there now.
std::string own_path() {
  constexpr std::string_view gone = " (deleted)";
  std::string path = link_text("/proc/self/exe");
  if (path.ends_with(gone)) path.resize(path.size() - gone.size());
  return path;
}

void execute(int binary, std::vector<std::string> words) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execveat(binary, "", argv.data(), environ, AT_EMPTY_PATH);
}

// What the binary prints when it is to try these notes; empty where it does not end well and soon.
std::string said_at_try(int binary, int notes) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return {};
  const Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(write_end.get(), STDOUT_FILENO);
    ::fcntl(notes, F_SETFD, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    execute(binary, {"limaquota", take_over_command, std::to_string(notes), try_option});
    ::_exit(127);
  }
  if (child < 0) return {};
  write_end.reset();
  std::string said;
  const auto end = std::chrono::steady_clock::now() + longest_try;
  for (bool open = true; open;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd one{read_end.get(), POLLIN, 0};
    char buffer[256];
    open = left > 0ms && ::poll(&one, 1, static_cast<int>(left.count())) > 0;
    const ssize_t got = open ? ::read(read_end.get(), buffer, sizeof buffer) : 0;
    open = got > 0 && said.size() < sizeof buffer;
    if (got > 0) said.append(buffer, static_cast<size_t>(got));
  }
  ::kill(child, SIGKILL);  // it has said what it had to say, or never will
  ::waitpid(child, nullptr, 0);
  return said;
}

Fd process_directory(pid_t pid) {
  return Fd(::open(fmt::format("/proc/{}", pid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::optional<uid_t> owner_of(int fd) {
  struct stat st {};
  return ::fstat(fd, &st) == 0 ? std::optional(st.st_uid) : std::nullopt;
}

bool below_own_mount(const std::string& path) {
  const auto mount = mount_of(path);
  return mount && mount->type == "fuse.limaquota";
}

std::string notes_link() { return fmt::format("/memfd:{} (deleted)", Notes::memory_name); }

// The daemon whose supervisor is this process, if `file`, an entry of its descriptors, is its notes. Others
// may have made it what they like, between one look and the next, too.
std::optional<Daemon> daemon_of(pid_t pid, const std::string& file) {
  const Fd notes(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!notes || link_text(fmt::format("/proc/self/fd/{}", notes.get())) != notes_link()) return std::nullopt;
  Daemon daemon;
  daemon.supervisor = pid;
  if (::fstat(notes.get(), &daemon.notes_file) != 0) return std::nullopt;
  daemon.notes = Notes::map(notes.get(), Notes::Purpose::looking);
  if (daemon.notes == nullptr) return daemon;
  const auto words = daemon.notes->mounted.read();
  if (daemon.notes->process.supervisor != pid || words.empty()) return std::nullopt;
  daemon.mountpoint = words.front();
  return daemon;
}

// Nobody else may have put it there, should `asker` be another process by now than the one that asked.
bool is_trusted(int binary) {
  struct stat st {};
  if (::fstat(binary, &st) != 0 || (st.st_uid != ::geteuid() && st.st_uid != 0)) return false;
  const bool by_group = (st.st_mode & S_IWGRP) != 0 && st.st_gid != ::getegid() && st.st_gid != 0;
  return !by_group && (st.st_mode & S_IWOTH) == 0;
}

}  // namespace

Result<void> set_on_exec(OnExec descriptors) {
  constexpr int first = 3;
  if (descriptors == OnExec::are_closed) {
    ::close_range(first, ~0U, CLOSE_RANGE_CLOEXEC);
    return {};
  }
  const auto all = open_descriptors();
  if (!all) return all.error();
  for (const int fd : *all)
    if (fd >= first) ::fcntl(fd, F_SETFD, 0);
  return {};
}

std::optional<Fd> binary_of(pid_t asker, const Notes& notes) {
  // By a descriptor of the process, which is the same for as long as it is looked at. Of another user's, who
  // may have its number by now, nothing is executed.
  const Fd process = process_directory(asker);
  const bool own = process && owner_of(process.get()) == ::geteuid();
  Fd binary(own ? ::openat(process.get(), "exe", O_PATH | O_CLOEXEC) : -1);
  std::string name = binary ? link_text(fmt::format("/proc/self/fd/{}", binary.get())) : own_path();
  // What lies below a mount cannot be opened without its daemon, which may be this one.
  if (below_own_mount(name)) {
    log_warning("no upgrade: {} lies in a mount of limaquota: copy it elsewhere first", name);
    return std::nullopt;
  }
  if (!binary) binary = Fd(::open(name.c_str(), O_PATH | O_CLOEXEC));
  if (!binary) {
    log_warning("no upgrade: cannot open {}: {}", name, std::strerror(errno));
    return std::nullopt;
  }
  if (!is_trusted(binary.get())) {
    log_warning("no upgrade: others than you may write {}", name);
    return std::nullopt;
  }
  if (said_at_try(binary.get(), notes.descriptor) != what_to_say(notes)) {
    log_warning("no upgrade: {} cannot take over from this version", name);
    return std::nullopt;
  }
  log_info("upgrade: going on as {}", name);
  return binary;
}

void become(int binary, const Notes& notes) {
  if (const auto kept = set_on_exec(OnExec::stay_open); kept) {
    ::fcntl(binary, F_SETFD, FD_CLOEXEC);
    execute(binary,
            {"limaquota", take_over_command, std::to_string(notes.descriptor), notes.mounted.read().front()});
    log_error("cannot go on as another binary: {}", std::strerror(errno));
  } else {
    log_error("cannot see what is open for another binary: {}", std::strerror(kept.error().value));
  }
  (void)set_on_exec(OnExec::are_closed);
}

int try_notes(int notes) {
  const Notes* known = Notes::map(notes, Notes::Purpose::looking);
  if (known == nullptr) return 1;
  std::fputs(what_to_say(*known).c_str(), stdout);
  return 0;
}

std::vector<Daemon> daemons() {
  std::vector<Daemon> found;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", none)) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    Fd process = pid > 0 ? process_directory(pid) : Fd();
    // Of processes that may not be looked at there is no list.
    for (const auto& file : std::filesystem::directory_iterator(entry.path() / "fd", none)) {
      if (!process || link_text(file.path()) != notes_link()) continue;
      auto daemon = daemon_of(pid, file.path());
      // A worker has the descriptors of its supervisor, which comes first.
      const bool is_known = std::any_of(found.begin(), found.end(), [&](const Daemon& one) {
        return daemon && one.notes_file.st_ino == daemon->notes_file.st_ino;
      });
      if (daemon && !is_known && owner_of(process.get()) == daemon->notes_file.st_uid) {
        daemon->process = std::move(process);
        found.push_back(std::move(*daemon));
      }
      break;
    }
  }
  return found;
}

Upgraded upgrade(const Daemon& daemon, const std::function<void()>& waiting) {
  const Notes& notes = *daemon.notes;
  const uint32_t done = notes.upgrade.done;
  const uint32_t refused = notes.upgrade.refused;
  const uint32_t failed = notes.upgrade.failed;
  const auto send = [&](int signal) {
    return ::syscall(SYS_pidfd_send_signal, daemon.process.get(), signal, nullptr, 0) == 0;
  };
  if (!send(SIGUSR1)) return Upgraded::silent;
  const auto end = std::chrono::steady_clock::now() + longest_upgrade;
  while (std::chrono::steady_clock::now() < end && send(0)) {
    if (notes.upgrade.done != done) return Upgraded::done;
    if (notes.upgrade.refused != refused) return Upgraded::refused;
    if (notes.upgrade.failed != failed) return Upgraded::failed;
    waiting();
    std::this_thread::sleep_for(look_interval);
  }
  return Upgraded::silent;
}

}  // namespace limaquota
