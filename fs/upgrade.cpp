#include "fs/upgrade.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "fs/log.hpp"

namespace limaquota {
namespace {

using namespace std::chrono_literals;
constexpr auto longest_try = 10s;
constexpr auto longest_upgrade = 2min;
constexpr auto look_interval = 100ms;

std::string what_to_say(const Handover& notes) { return fmt::format("takes over {}\n", notes.layout); }

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

pid_t parent_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // its name may hold anything
  if (name_end == std::string::npos || name_end + 4 > text.size()) return 0;
  return std::atoi(text.c_str() + name_end + 4);
}

// Nobody else may have put it there, should `asker` be another process by now than the one that asked.
bool is_trusted(int binary) {
  struct stat st {};
  if (::fstat(binary, &st) != 0 || (st.st_uid != ::geteuid() && st.st_uid != 0)) return false;
  const bool by_group = (st.st_mode & S_IWGRP) != 0 && st.st_gid != ::getegid() && st.st_gid != 0;
  return !by_group && (st.st_mode & S_IWOTH) == 0;
}

}  // namespace

void set_close_on_exec(bool close) {
  constexpr unsigned first = 3;
  if (close) {
    ::close_range(first, ~0U, CLOSE_RANGE_CLOEXEC);
    return;
  }
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::atoi(entry.path().filename().c_str());
    if (fd >= static_cast<int>(first)) ::fcntl(fd, F_SETFD, 0);
  }
}

std::optional<Fd> binary_of(pid_t asker, const Handover& notes) {
  Fd binary(::open(fmt::format("/proc/{}/exe", asker).c_str(), O_PATH | O_CLOEXEC));
  std::string name = link_text(fmt::format("/proc/{}/exe", asker));
  if (!binary) {
    name = own_path();
    binary = Fd(::open(name.c_str(), O_PATH | O_CLOEXEC));
  }
  if (!binary) {
    log_warning("no upgrade: cannot open {}: {}", name, std::strerror(errno));
    return std::nullopt;
  }
  if (!is_trusted(binary.get())) {
    log_warning("no upgrade: others than you may write {}", name);
    return std::nullopt;
  }
  if (said_at_try(binary.get(), notes.notes) != what_to_say(notes)) {
    log_warning("no upgrade: {} cannot take over from this version", name);
    return std::nullopt;
  }
  log_info("upgrade: going on as {}", name);
  return binary;
}

void become(int binary, const Handover& notes) {
  set_close_on_exec(false);
  ::fcntl(binary, F_SETFD, FD_CLOEXEC);
  execute(binary, {"limaquota", take_over_command, std::to_string(notes.notes), notes.words().front()});
  log_error("cannot go on as another binary: {}", std::strerror(errno));
  set_close_on_exec(true);
}

int try_notes(int notes) {
  const Handover* known = Handover::map(notes, false);
  if (known == nullptr) return 1;
  std::fputs(what_to_say(*known).c_str(), stdout);
  return 0;
}

std::vector<Daemon> daemons() {
  std::map<pid_t, Daemon> found;
  const std::string wanted = fmt::format("/memfd:{} (deleted)", Handover::memory_name);
  std::error_code none;
  for (const auto& process : std::filesystem::directory_iterator("/proc", none)) {
    const pid_t pid = std::atoi(process.path().filename().c_str());
    // Of processes that may not be looked at there is no list.
    for (const auto& entry : std::filesystem::directory_iterator(process.path() / "fd", none)) {
      if (pid <= 0 || link_text(entry.path()) != wanted) continue;
      const Fd notes(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
      Daemon& daemon = found[pid];
      daemon.supervisor = pid;
      daemon.notes = Handover::map(notes.get(), false);
      if (daemon.notes != nullptr) daemon.mountpoint = daemon.notes->words().front();
      break;
    }
  }
  // A worker has the same descriptors as its supervisor, which is its parent.
  std::vector<Daemon> all;
  for (const auto& [pid, daemon] : found) {
    if (!found.contains(parent_of(pid))) all.push_back(daemon);
  }
  return all;
}

Upgraded upgrade(const Daemon& daemon, const std::function<void()>& waiting) {
  const Handover& notes = *daemon.notes;
  const uint32_t done = notes.upgrades;
  const uint32_t refused = notes.refused_upgrades;
  const uint32_t failed = notes.failed_upgrades;
  if (::kill(daemon.supervisor, SIGUSR1) != 0) return Upgraded::silent;
  const auto end = std::chrono::steady_clock::now() + longest_upgrade;
  while (std::chrono::steady_clock::now() < end && ::kill(daemon.supervisor, 0) == 0) {
    if (notes.upgrades != done) return Upgraded::done;
    if (notes.refused_upgrades != refused) return Upgraded::refused;
    if (notes.failed_upgrades != failed) return Upgraded::failed;
    waiting();
    std::this_thread::sleep_for(look_interval);
  }
  return Upgraded::silent;
}

}  // namespace limaquota
