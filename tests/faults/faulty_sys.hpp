// System calls that fail at random, as a control file says.
#pragma once

#include <atomic>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fs/handover/notes.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {

// The control file holds lines `CALL:FAULT:N`: one CALL in N fails. FAULT is an errno's name (EIO, ENOSPC,
// EINTR, EDQUOT): the call does nothing and fails; with `late ` before it (late EIO): the call does its work
// and fails nevertheless, a write half of it; or `short`: a read, write or copy does half. `kill` ends the
// process by SIGKILL instead of the call, `late kill` after it where it succeeded, both only once the worker
// serves; `hang` holds all its threads for ever; `slow` has the call take three seconds; `memory` throws
// std::bad_alloc instead of the call, `late memory` after it. CALL is the name of a
// function of Sys, and for openat one of openat_path (O_PATH), openat_create, openat_write, openat_read.
// The file is read again where its time of modification is another; empty or absent: no faults. Before a
// fault is injected `<file>.count` says how many this process has been given with it. Thread safety: as Sys.
class FaultySys : public Sys {
 public:
  FaultySys(std::string control_file, uint64_t seed, const Notes& notes);

  Result<Fd> openat(int dir, const char* name, int flags, mode_t mode) override;
  Result<size_t> pread(int fd, void* buffer, size_t size, off_t offset, Caching caching) override;
  Result<size_t> pwrite(int fd, const void* buffer, size_t size, off_t offset) override;
  Result<void> fallocate(int fd, int mode, off_t offset, off_t length) override;
  Result<void> ftruncate(int fd, off_t size) override;
  Result<size_t> copy_file_range(int in, off_t in_offset, int out, off_t out_offset, size_t size) override;
  Result<off_t> lseek(int fd, off_t offset, int whence) override;
  Result<void> fsync(int fd) override;
  Result<void> fdatasync(int fd) override;
  Result<void> write_back(int fd) override;
  Result<struct stat> fstat(int fd) override;
  Result<struct stat> fstatat(int dir, const char* name, int flags) override;
  Result<struct statvfs> fstatvfs(int fd) override;
  Result<void> chmod(int fd, mode_t mode) override;
  Result<void> setxattr(int fd, const char* name, const void* value, size_t size, int flags) override;
  Result<void> removexattr(int fd, const char* name) override;
  Result<void> mkdirat(int dir, const char* name, mode_t mode) override;
  Result<void> mknodat(int dir, const char* name, mode_t mode, dev_t device) override;
  Result<void> symlinkat(const char* target, int dir, const char* name) override;
  Result<void> linkat(int fd, int dir, const char* name) override;
  Result<void> unlinkat(int dir, const char* name, int flags) override;
  Result<void> renameat2(int dir, const char* name, int new_dir, const char* new_name,
                         unsigned flags) override;
  Result<std::string> readlink(int fd) override;
  Result<size_t> getdents(int fd, void* buffer, size_t size) override;
  Result<std::vector<Extent>> extents(int fd, uint64_t offset, uint64_t length, size_t limit) override;
  Result<uint64_t> count_extents(int fd, uint64_t offset) override;

 private:
  enum class When { never, before, after, halfway };
  enum class What { error, kill, hang, slow, memory };
  struct Fault {
    When when = When::never;
    What what = What::error;
    Errno error;
  };
  struct Rule {
    std::string call;
    Fault fault;
    unsigned one_in = 0;
  };

  static Fault fault_named(std::string_view text);
  Fault next(std::string_view call);
  // Does what is no error; then `fault` says how the call goes on.
  void suffer(Fault& fault) const;
  void read_control_file();
  void tell_count() const;
  template <class Call>
  auto with_fault(std::string_view name, Call call) -> decltype(call());
  template <class Call>
  Result<size_t> counted_with_fault(std::string_view name, size_t size, Call call);

  static constexpr int64_t no_version = -1;

  const std::string control_file_;
  std::mutex mutex_;
  const Notes& notes_;
  // guarded by mutex_
  std::mt19937_64 random_;  // each worker has numbers of its own, the same in each run
  std::vector<Rule> rules_;
  int64_t version_ = no_version;  // of the control file: when it was modified, in nanoseconds
  uint64_t injected_ = 0;
};

}  // namespace limaquota
