// The daemon's life: start, wait, unmount, and the checks at the end.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

namespace {

// In the child between fork and exec: stdin from nowhere, stdout and stderr appended to the log.
[[noreturn]] void become_daemon(const std::vector<std::string>& words, const fs::path& log) {
  const int in = ::open("/dev/null", O_RDONLY);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::close(in);
  ::close(out);
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  ::_exit(127);
}

std::vector<std::string> mount_words(const fs::path& source, const fs::path& mountpoint,
                                     const std::vector<std::string>& options) {
  std::vector<std::string> words = {limaquota_binary(), "mount", "-f"};
  // A lane of its own runs all tests over io_uring.
  if (const char* everywhere = std::getenv("LIMAQUOTA_MOUNT_OPTIONS"))
    words.insert(words.end(), {"-o", everywhere});
  for (const std::string& option : options) words.insert(words.end(), {"-o", option});
  if (source != mountpoint) words.push_back(source);
  words.push_back(mountpoint);
  return words;
}

}  // namespace

fs::path limaquota_binary() {
  const char* binary = std::getenv("LIMAQUOTA_BINARY");
  return binary != nullptr ? fs::path(binary)
                           : fs::read_symlink("/proc/self/exe").parent_path() / "limaquota";
}

std::string mount_command(const fs::path& source, const fs::path& mountpoint,
                          const std::vector<std::string>& options) {
  std::string command;
  for (const std::string& word : mount_words(source, mountpoint, options))
    command += quoted(fs::path(word)) + " ";
  return command;
}

MountedHome::MountedHome(Scratch& scratch, const MountSetup& setup)
    : scratch_(scratch),
      setup_(setup),
      backing_(scratch.view() / "home"),
      log_(scratch.path() / "daemon.log") {
  start();
}

MountedHome::~MountedHome() {
  if (daemon_ > 0) {
    ::kill(daemon_, SIGKILL);
    (void)wait_for_daemon();
  }
  detach();
}

// Takes away a mount whose daemon has gone.
void MountedHome::detach() {
  if (!is_mounted()) return;
  if (as_root())
    (void)::umount2(mount_.c_str(), MNT_DETACH);
  else
    (void)run("fusermount3 -u -z " + quoted(mount_));
}

void MountedHome::start() {
  const fs::path home = scratch_.path() / "home";
  mount_ = setup_.in_place ? home : scratch_.path() / "mnt";
  if (!setup_.in_place) fs::create_directories(mount_);
  const std::vector<std::string> words = mount_words(home, mount_, setup_.options);
  daemon_ = ::fork();
  if (daemon_ == 0) become_daemon(words, log_);
  if (daemon_ < 0) throw std::runtime_error("fork failed");
  const bool answers = eventually([this] {
    if (::waitpid(daemon_, nullptr, WNOHANG) == daemon_) daemon_ = -1;
    return daemon_ < 0 || ::access((mount_ / ".usage" / "_host").c_str(), R_OK) == 0;
  });
  if (daemon_ < 0 || !answers) throw std::runtime_error("the mount does not answer; its log:\n" + log());
  forget_unused();
  descriptors_at_start_ = backing_descriptors();
}

pid_t MountedHome::worker() const {
  const std::string pid = std::to_string(daemon_);
  std::ifstream children("/proc/" + pid + "/task/" + pid + "/children");
  for (pid_t child = -1; children >> child;) {
    std::string name;
    std::getline(std::ifstream("/proc/" + std::to_string(child) + "/comm"), name);
    if (!name.empty() && name != "limaquota-probe") return child;
  }
  return -1;
}

std::string MountedHome::log() const {
  std::ostringstream text;
  text << std::ifstream(log_).rdbuf();
  return text.str();
}

bool MountedHome::is_mounted() const {
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string source, place;
    words >> source >> place;
    // Only fuse: the home that is covered in place lies on the backing's own mount.
    if (place == mount_.string() && line.find(" fuse") != std::string::npos) return true;
  }
  return false;
}

int MountedHome::wait_for_daemon() {
  int status = 0;
  const bool ended = eventually([&] { return ::waitpid(daemon_, &status, WNOHANG) != 0; });
  if (!ended) {
    ADD_FAILURE() << "the daemon does not end; its log:\n" << log();
    ::kill(daemon_, SIGKILL);
    ::waitpid(daemon_, &status, 0);
  }
  daemon_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int MountedHome::unmount() {
  if (daemon_ < 0) {
    detach();
    return 0;
  }
  std::string why;
  const bool unmounted = eventually([&] {
    if (!is_mounted()) return true;
    if (as_root()) {
      if (::umount2(mount_.c_str(), UMOUNT_NOFOLLOW) == 0) return true;
      why = std::strerror(errno);
      return false;
    }
    const CommandResult result = run("fusermount3 -u " + quoted(mount_));
    why = result.output;
    return result.status == 0;
  });
  if (!unmounted) {
    ADD_FAILURE() << "cannot unmount " << mount_ << ": " << why;
    ::kill(daemon_, SIGKILL);
  }
  const int status = wait_for_daemon();
  EXPECT_FALSE(is_mounted());
  return status;
}

int MountedHome::end_with_signal(int signal) {
  EXPECT_EQ(errno_of(::kill(daemon_, signal)), 0);
  return wait_for_daemon();
}

void MountedHome::remount() { remount(setup_); }

void MountedHome::remount(const MountSetup& setup) {
  EXPECT_EQ(unmount(), 0);
  setup_ = setup;
  start();
}

// A remount with the flags that it has drops the unused names of this one filesystem, where drop_caches would
// drop those of the whole host, other tests' among them.
void MountedHome::forget_unused() const {
  struct statvfs status = {};
  if (!as_root() || ::statvfs(mount_.c_str(), &status) != 0) return;
  const unsigned long flags = status.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC);
  EXPECT_EQ(errno_of(::mount(nullptr, mount_.c_str(), nullptr, MS_REMOUNT | flags, nullptr)), 0);
}

size_t MountedHome::backing_descriptors() const {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(daemon_) + "/fd", error)) {
    const std::string target = fs::read_symlink(entry.path(), error).string();
    if (!error && target.starts_with("/") && !target.starts_with("/dev/") && target != log_) ++count;
  }
  return count;
}

// Inodes that were written to may be held for minutes until they are known to be on disk, so the tree is
// emptied first: then nothing can be held but what was at the start.
void MountedHome::expect_no_leaked_descriptors() const {
  for (const auto& entry : fs::directory_iterator(mount_)) {
    const std::string name = entry.path().filename();
    std::error_code error;
    if (name != ".usage" && name != ".quota") fs::remove_all(entry.path(), error);
    if (error == std::errc::read_only_file_system) return;
    EXPECT_FALSE(error) << "removing " << entry.path() << ": " << error.message();
  }
  EXPECT_TRUE(comes_to_rest("_shared")) << "after emptying the tree";
  const bool closed = eventually([this] {
    if (backing_descriptors() <= descriptors_at_start_) return true;
    forget_unused();
    return false;
  });
  if (closed) return;
  ADD_FAILURE() << backing_descriptors() << " descriptors are open in the backing, " << descriptors_at_start_
                << " were at the start:\n"
                << run("ls -l /proc/" + std::to_string(daemon_) + "/fd | grep -v /dev/ | head -20").output;
}

void MountedHome::expect_clean_log() const {
  std::istringstream lines(log());
  for (std::string line; std::getline(lines, line);) {
    if (line.find(" is mounted on ") != std::string::npos) continue;
    const bool expected =
        std::any_of(expected_log_.begin(), expected_log_.end(),
                    [&](const std::string& regex) { return std::regex_search(line, std::regex(regex)); });
    EXPECT_TRUE(expected) << "in the daemon's log: " << line;
  }
}

void MountedHome::finish() {
  siginfo_t ended = {};
  if (daemon_ > 0 && ::waitid(P_PID, static_cast<id_t>(daemon_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
      ended.si_pid == daemon_ && is_mounted()) {
    ADD_FAILURE() << "the daemon died with status " << wait_for_daemon() << "; its log:\n" << log();
    detach();
    return;
  }
  if (daemon_ > 0) {
    expect_exact();
    expect_no_leaked_descriptors();
    EXPECT_EQ(unmount(), 0) << "the daemon's exit status";
  }
  EXPECT_FALSE(is_mounted());
  expect_clean_log();
}

}  // namespace limaquota::mount_tests
