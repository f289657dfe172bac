// Small helpers around the system calls that tests make on files.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace limaquota::mount_tests {

inline constexpr uint64_t KiB = 1024;
inline constexpr uint64_t MiB = 1024 * KiB;
inline constexpr uint64_t GiB = 1024 * MiB;

// Owns a descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { close(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // 0 or an errno.
  int close();

 private:
  int fd_ = -1;
};

// 0 where a system call's result says success, else errno: EXPECT_EQ(errno_of(::link(a, b)), EXDEV).
int errno_of(int64_t result);

// Opens; where that fails the test fails and the Fd is empty.
Fd open_file(const std::filesystem::path& path, int flags, mode_t mode = 0644);
// Opens for reading and writing, made anew.
Fd create_file(const std::filesystem::path& path);

// How far writing got and what stopped it.
struct Written {
  uint64_t bytes = 0;  // accepted, from the first offset on, without a gap
  int error = 0;       // 0 where everything was
};
// pwrite of `length` bytes at `offset` in pieces of at most `piece`, going on after short writes. The bytes
// are a pattern of `seed` and the offset, which has_pattern() knows again.
Written write_range(int fd, uint64_t offset, uint64_t length, uint64_t piece = 64 * KiB, uint32_t seed = 1);
bool has_pattern(int fd, uint64_t offset, uint64_t length, uint32_t seed = 1);
// Writes `piece` bytes at every `stride` from `offset` up to `end`; counts the bytes, stops at the first
// error.
Written write_scattered(int fd, uint64_t offset, uint64_t end, uint64_t piece, uint64_t stride,
                        uint32_t seed = 1);

// Whole texts. read_text fails the test and gives "" where the file cannot be read.
std::string read_text(const std::filesystem::path& path);
// open(O_WRONLY | flags), one write, close; 0 or the errno of whichever failed.
[[nodiscard]] int write_text(const std::filesystem::path& path, std::string_view text, int flags);
[[nodiscard]] int write_text(const std::filesystem::path& path,
                             std::string_view text);  // creates and truncates

// What `du -s --block-size=1` says: lstat of everything below and including `path`, each inode once. What
// vanishes meanwhile is left out.
uint64_t du(const std::filesystem::path& path);
// What directories held together at one moment, at the least: of two walks the smaller figure of each inode,
// so that what one file gave back and another took between two lstats is not counted twice.
uint64_t held_at_least(const std::vector<std::filesystem::path>& directories);
// st_blocks * 512 of one file.
uint64_t allocated(const std::filesystem::path& path);

// Runs `body` in a forked child, as another user where uid is not the process's own (root only), and gives
// its exit status: what body returns, 99 for an exception, 128 + signal.
int in_child(const std::function<int()>& body);
int in_child_as(uid_t uid, gid_t gid, const std::function<int()>& body);

struct CommandResult {
  int status = 0;      // exit status, or 128 + signal
  std::string output;  // stdout and stderr together
};
// Runs a shell command line.
CommandResult run(const std::string& command);
// A path quoted for the shell.
std::string quoted(const std::filesystem::path& path);

// How long a test waits for what must come. It is there so that what hangs fails, and judges no speed: no
// machine is so slow.
inline constexpr std::chrono::seconds patience{300};
// The command line, ended with status 124 once the patience is over.
std::string within_patience(const std::string& command);
// Polls until `condition` holds; false where the test's patience was over before, or the test failed
// meanwhile.
bool eventually(const std::function<bool()>& condition);

}  // namespace limaquota::mount_tests
