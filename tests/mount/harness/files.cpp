#include "tests/mount/harness/files.hpp"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <set>
#include <thread>
#include <vector>

namespace limaquota::mount_tests {

namespace {

// The bytes of the pattern from a position on: those of a hash of the seed and the 8-byte word in which they
// lie.
void fill_pattern(std::vector<char>& buffer, uint64_t offset, uint32_t seed) {
  for (size_t done = 0; done < buffer.size();) {
    const uint64_t position = offset + done;
    uint64_t word = (position / 8 + 1) * 0x9e3779b97f4a7c15ULL + seed * 0xbf58476d1ce4e5b9ULL;
    word ^= word >> 29;
    const size_t within = position % 8;
    const size_t part = std::min(sizeof word - within, buffer.size() - done);
    std::memcpy(buffer.data() + done, reinterpret_cast<const char*>(&word) + within, part);
    done += part;
  }
}

using Blocks = std::map<std::pair<dev_t, ino_t>, uint64_t>;

void add_blocks(const std::filesystem::path& path, Blocks& blocks) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0)
    blocks[{st.st_dev, st.st_ino}] = static_cast<uint64_t>(st.st_blocks) * 512;
}

Blocks blocks_below(const std::vector<std::filesystem::path>& directories) {
  Blocks blocks;
  for (const std::filesystem::path& directory : directories) {
    add_blocks(directory, blocks);
    std::error_code error;
    auto it = std::filesystem::recursive_directory_iterator(directory, error);
    for (; !error && it != std::filesystem::recursive_directory_iterator(); it.increment(error))
      add_blocks(it->path(), blocks);
  }
  return blocks;
}

int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

int Fd::close() {
  if (fd_ < 0) return 0;
  return errno_of(::close(std::exchange(fd_, -1)));
}

int errno_of(int64_t result) { return result >= 0 ? 0 : errno; }

Fd open_file(const std::filesystem::path& path, int flags, mode_t mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) ADD_FAILURE() << "open " << path << ": " << std::strerror(errno);
  return fd;
}

Fd create_file(const std::filesystem::path& path) { return open_file(path, O_RDWR | O_CREAT | O_EXCL); }

Written write_range(int fd, uint64_t offset, uint64_t length, uint64_t piece, uint32_t seed) {
  Written written;
  std::vector<char> buffer;
  while (written.bytes < length) {
    buffer.resize(std::min(piece, length - written.bytes));
    fill_pattern(buffer, offset + written.bytes, seed);
    const ssize_t n = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset + written.bytes));
    if (n <= 0) {
      written.error = n < 0 ? errno : EIO;
      return written;
    }
    written.bytes += static_cast<uint64_t>(n);
  }
  return written;
}

bool has_pattern(int fd, uint64_t offset, uint64_t length, uint32_t seed) {
  std::vector<char> expected;
  std::vector<char> found;
  for (uint64_t done = 0; done < length; done += expected.size()) {
    expected.resize(std::min<uint64_t>(256 * KiB, length - done));
    found.assign(expected.size(), 0);
    fill_pattern(expected, offset + done, seed);
    const ssize_t n = ::pread(fd, found.data(), found.size(), static_cast<off_t>(offset + done));
    if (n != static_cast<ssize_t>(found.size()) || found != expected) return false;
  }
  return true;
}

Written write_scattered(int fd, uint64_t offset, uint64_t end, uint64_t piece, uint64_t stride,
                        uint32_t seed) {
  Written written;
  for (uint64_t at = offset; at + piece <= end; at += stride) {
    const Written one = write_range(fd, at, piece, piece, seed);
    written.bytes += one.bytes;
    if (one.error != 0) {
      written.error = one.error;
      return written;
    }
  }
  return written;
}

std::string read_text(const std::filesystem::path& path) {
  const Fd fd = open_file(path, O_RDONLY);
  std::string text;
  char buffer[16384];
  while (fd) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) ADD_FAILURE() << "read " << path << ": " << std::strerror(errno);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

int write_text(const std::filesystem::path& path, std::string_view text, int flags) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  if (!fd) return errno;
  int error = 0;
  if (!text.empty()) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    error = n == static_cast<ssize_t>(text.size()) ? 0 : (n < 0 ? errno : EIO);
  }
  const int closing = fd.close();
  return error != 0 ? error : closing;
}

int write_text(const std::filesystem::path& path, std::string_view text) {
  return write_text(path, text, O_CREAT | O_TRUNC);
}

uint64_t du(const std::filesystem::path& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) return 0;
  std::set<std::pair<dev_t, ino_t>> seen;
  seen.emplace(status.st_dev, status.st_ino);
  uint64_t sum = static_cast<uint64_t>(status.st_blocks) * 512;
  if (!S_ISDIR(status.st_mode)) return sum;
  std::error_code error;
  auto it = std::filesystem::recursive_directory_iterator(path, error);
  for (; !error && it != std::filesystem::recursive_directory_iterator(); it.increment(error)) {
    if (::lstat(it->path().c_str(), &status) != 0) continue;
    if (seen.emplace(status.st_dev, status.st_ino).second)
      sum += static_cast<uint64_t>(status.st_blocks) * 512;
  }
  return sum;
}

uint64_t held_at_least(const std::vector<std::filesystem::path>& directories) {
  const Blocks first = blocks_below(directories);
  const Blocks second = blocks_below(directories);
  uint64_t sum = 0;
  for (const auto& [inode, bytes] : first) {
    const auto again = second.find(inode);
    if (again != second.end()) sum += std::min(bytes, again->second);
  }
  return sum;
}

uint64_t allocated(const std::filesystem::path& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    ADD_FAILURE() << "lstat " << path << ": " << std::strerror(errno);
    return 0;
  }
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

int in_child(const std::function<int()>& body) { return in_child_as(::getuid(), ::getgid(), body); }

int in_child_as(uid_t uid, gid_t gid, const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int status = 99;
    const bool other = uid != ::getuid() || gid != ::getgid();
    if (!other || (::setgroups(0, nullptr) == 0 && ::setresgid(gid, gid, gid) == 0 &&
                   ::setresuid(uid, uid, uid) == 0)) {
      try {
        status = body();
      } catch (const std::exception& e) {
        std::fprintf(stderr, "child: %s\n", e.what());
      }
    }
    std::fflush(nullptr);
    ::_exit(status);
  }
  int status = 0;
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid) {
    ADD_FAILURE() << "fork or waitpid: " << std::strerror(errno);
    return 99;
  }
  return exit_status(status);
}

CommandResult run(const std::string& command) {
  CommandResult result;
  std::FILE* pipe = ::popen(("{ " + command + "\n} 2>&1 </dev/null").c_str(), "re");
  if (pipe == nullptr) {
    ADD_FAILURE() << "popen: " << std::strerror(errno);
    return {99, ""};
  }
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) result.output.append(buffer, n);
  result.status = exit_status(::pclose(pipe));
  return result;
}

std::string quoted(const std::filesystem::path& path) {
  std::string text = "'";
  for (const char c : path.string()) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string within_patience(const std::string& command) {
  return "timeout " + std::to_string(patience.count()) + " " + command;
}

namespace {

int failures_so_far() {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  return test == nullptr ? 0 : test->result()->total_part_count();
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  const int failures = failures_so_far();
  const auto deadline = std::chrono::steady_clock::now() + patience;
  // Soon at first, since most come at once.
  std::chrono::milliseconds pause{1};
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline || failures_so_far() > failures) return false;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::milliseconds(20));
  }
  return true;
}

}  // namespace limaquota::mount_tests
