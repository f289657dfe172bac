#include "tests/faults/faulty_sys.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <new>
#include <thread>
#include <utility>

namespace limaquota {
namespace {

using namespace std::chrono_literals;

// In a signal handler: the thread is held until the process ends.
void hold(int /*signal*/) {
  for (;;) ::pause();
}

[[noreturn]] void hang() {
  std::signal(SIGRTMIN, hold);
  const std::string tasks = "/proc/self/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const pid_t thread = std::stoi(task.path().filename());
    if (thread != ::gettid()) (void)::tgkill(::getpid(), thread, SIGRTMIN);
  }
  for (;;) ::pause();
}

Errno errno_named(std::string_view name) {
  if (name == "ENOSPC") return Errno{ENOSPC};
  if (name == "EINTR") return Errno{EINTR};
  if (name == "EDQUOT") return Errno{EDQUOT};
  return Errno{EIO};
}

}  // namespace

FaultySys::FaultySys(std::string control_file, uint64_t seed, const Notes& notes)
    : control_file_(std::move(control_file)), notes_(notes), random_(seed + notes.process.restarts) {
  read_control_file();
}

void FaultySys::read_control_file() {
  struct stat status {};
  const bool there = ::stat(control_file_.c_str(), &status) == 0;
  const int64_t version = there ? status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec : no_version;
  if (version == version_) return;
  version_ = version;
  rules_.clear();
  std::ifstream file(control_file_);
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    Rule rule;
    rule.call = line.substr(0, first);
    rule.fault = fault_named(std::string_view(line).substr(first + 1, second - first - 1));
    rule.one_in = static_cast<unsigned>(std::stoul(line.substr(second + 1)));
    rules_.push_back(std::move(rule));
  }
}

void FaultySys::tell_count() const { std::ofstream(control_file_ + ".count") << injected_ << "\n"; }

FaultySys::Fault FaultySys::fault_named(std::string_view text) {
  Fault fault;
  fault.when = text == "short" ? When::halfway : When::before;
  constexpr std::string_view late = "late ";
  if (text.starts_with(late)) {
    fault.when = When::after;
    text.remove_prefix(late.size());
  }
  if (text == "kill") fault.what = What::kill;
  if (text == "hang") fault.what = What::hang;
  if (text == "slow") fault.what = What::slow;
  if (text == "memory") fault.what = What::memory;
  fault.error = errno_named(text);
  return fault;
}

void FaultySys::suffer(Fault& fault) const {
  if (fault.what == What::error) return;
  if (fault.what == What::hang) hang();
  if (fault.what == What::memory) throw std::bad_alloc();
  if (fault.what == What::kill && notes_.process.serving_since != 0) ::kill(::getpid(), SIGKILL);
  if (fault.what == What::slow) std::this_thread::sleep_for(3s);
  fault.when = When::never;
}

FaultySys::Fault FaultySys::next(std::string_view call) {
  const std::lock_guard lock(mutex_);
  read_control_file();
  for (const Rule& rule : rules_) {
    if (rule.call != call || rule.one_in == 0 || random_() % rule.one_in != 0) continue;
    ++injected_;
    tell_count();
    return rule.fault;
  }
  return {};
}

template <class Call>
auto FaultySys::with_fault(std::string_view name, Call call) -> decltype(call()) {
  Fault fault = next(name);
  if (fault.when == When::before) suffer(fault);
  if (fault.when == When::never || fault.when == When::halfway) return call();
  if (fault.when == When::before) return fault.error;
  auto done = call();
  // What failed would fail again and again.
  if (fault.what == What::kill && !done) return done;
  suffer(fault);
  return fault.when == When::never ? std::move(done) : fault.error;
}

template <class Call>
Result<size_t> FaultySys::counted_with_fault(std::string_view name, size_t size, Call call) {
  Fault fault = next(name);
  if (fault.when == When::before) suffer(fault);
  if (fault.when == When::never) return call(size);
  if (fault.what == What::kill || fault.what == What::memory) {
    const auto done = call(size);
    suffer(fault);
    return done;
  }
  if (fault.when == When::halfway) return call(std::max<size_t>(1, size / 2));
  if (fault.when == When::after) (void)!call(std::max<size_t>(1, size / 2));
  return fault.error;
}

Result<Fd> FaultySys::openat(int dir, const char* name, int flags, mode_t mode) {
  std::string_view call = (flags & O_ACCMODE) == O_RDONLY ? "openat_read" : "openat_write";
  if ((flags & O_CREAT) != 0) call = "openat_create";
  if ((flags & O_PATH) != 0) call = "openat_path";
  return with_fault(call, [&] { return Sys::openat(dir, name, flags, mode); });
}

Result<size_t> FaultySys::pread(int fd, void* buffer, size_t size, off_t offset, Caching caching) {
  return counted_with_fault("pread", size,
                            [&](size_t part) { return Sys::pread(fd, buffer, part, offset, caching); });
}

Result<size_t> FaultySys::pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  return counted_with_fault("pwrite", size,
                            [&](size_t part) { return Sys::pwrite(fd, buffer, part, offset); });
}

Result<void> FaultySys::fallocate(int fd, int mode, off_t offset, off_t length) {
  return with_fault("fallocate", [&] { return Sys::fallocate(fd, mode, offset, length); });
}

Result<void> FaultySys::ftruncate(int fd, off_t size) {
  return with_fault("ftruncate", [&] { return Sys::ftruncate(fd, size); });
}

Result<size_t> FaultySys::copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) {
  return counted_with_fault("copy_file_range", size, [&](size_t part) {
    return Sys::copy_file_range(in, in_offset, out, out_offset, part);
  });
}

Result<off_t> FaultySys::lseek(int fd, off_t offset, int whence) {
  return with_fault("lseek", [&] { return Sys::lseek(fd, offset, whence); });
}

Result<void> FaultySys::fsync(int fd) {
  return with_fault("fsync", [&] { return Sys::fsync(fd); });
}

Result<void> FaultySys::fdatasync(int fd) {
  return with_fault("fdatasync", [&] { return Sys::fdatasync(fd); });
}

Result<void> FaultySys::write_back(int fd) {
  return with_fault("write_back", [&] { return Sys::write_back(fd); });
}

Result<struct stat> FaultySys::fstat(int fd) {
  return with_fault("fstat", [&] { return Sys::fstat(fd); });
}

Result<struct stat> FaultySys::fstatat(int dir, const char* name, int flags) {
  return with_fault("fstatat", [&] { return Sys::fstatat(dir, name, flags); });
}

Result<struct statvfs> FaultySys::fstatvfs(int fd) {
  return with_fault("fstatvfs", [&] { return Sys::fstatvfs(fd); });
}

Result<void> FaultySys::chmod(int fd, mode_t mode) {
  return with_fault("chmod", [&] { return Sys::chmod(fd, mode); });
}

Result<void> FaultySys::setxattr(int fd, const char* name, const void* value, size_t size, int flags) {
  return with_fault("setxattr", [&] { return Sys::setxattr(fd, name, value, size, flags); });
}

Result<void> FaultySys::removexattr(int fd, const char* name) {
  return with_fault("removexattr", [&] { return Sys::removexattr(fd, name); });
}

Result<void> FaultySys::mkdirat(int dir, const char* name, mode_t mode) {
  return with_fault("mkdirat", [&] { return Sys::mkdirat(dir, name, mode); });
}

Result<void> FaultySys::mknodat(int dir, const char* name, mode_t mode, dev_t device) {
  return with_fault("mknodat", [&] { return Sys::mknodat(dir, name, mode, device); });
}

Result<void> FaultySys::symlinkat(const char* target, int dir, const char* name) {
  return with_fault("symlinkat", [&] { return Sys::symlinkat(target, dir, name); });
}

Result<void> FaultySys::linkat(int fd, int dir, const char* name) {
  return with_fault("linkat", [&] { return Sys::linkat(fd, dir, name); });
}

Result<void> FaultySys::unlinkat(int dir, const char* name, int flags) {
  return with_fault("unlinkat", [&] { return Sys::unlinkat(dir, name, flags); });
}

Result<void> FaultySys::renameat2(int dir, const char* name, int new_dir, const char* new_name,
                                  unsigned flags) {
  return with_fault("renameat2", [&] { return Sys::renameat2(dir, name, new_dir, new_name, flags); });
}

Result<std::string> FaultySys::readlink(int fd) {
  return with_fault("readlink", [&] { return Sys::readlink(fd); });
}

Result<size_t> FaultySys::getdents(int fd, void* buffer, size_t size) {
  return with_fault("getdents", [&] { return Sys::getdents(fd, buffer, size); });
}

Result<std::vector<Extent>> FaultySys::extents(int fd, uint64_t offset, uint64_t length, size_t limit) {
  return with_fault("extents", [&] { return Sys::extents(fd, offset, length, limit); });
}

Result<uint64_t> FaultySys::count_extents(int fd, uint64_t offset) {
  return with_fault("count_extents", [&] { return Sys::count_extents(fd, offset); });
}

}  // namespace limaquota
