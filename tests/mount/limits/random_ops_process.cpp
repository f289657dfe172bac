// One process of the random operations. It keeps to system calls and the stack or small vectors: it was
// forked.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <random>
#include <string>

#include "tests/mount/harness/files.hpp"
#include "tests/mount/limits/random_ops.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t largest_file = 6 * MiB;
constexpr uint64_t largest_piece = 192 * KiB;
constexpr size_t most_open = 6;
constexpr std::array<const char*, 14> names = {"disk",  "diffdisk", "iso",   "datadisk", "log",
                                               "a",     "b",        "c",     "d",        "e",
                                               "sub/a", "sub/b",    "sub/c", "sub/d"};
constexpr std::array<const char*, 3> mapped_names = {"a", "log", "sub/a"};

// A store into a mapping whose file another process cut raises SIGBUS, and so does one where the page cannot
// be read: both are part of the game.
sigjmp_buf after_bus_error;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
extern "C" void on_bus_error(int) { siglongjmp(after_bus_error, 1); }

class Process {
 public:
  Process(const RandomPlan& plan, unsigned process, RandomTally& tally)
      : plan_(plan),
        tally_(tally),
        random_(plan.seed * random_processes + process),
        buffer_(largest_piece, 'x') {}

  void run(uint64_t operations) {
    while (tally_.operations < operations && tally_.wrong[0] == 0) one_operation();
  }

 private:
  uint64_t below(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random_); }
  size_t any_directory() { return below(plan_.directories.size()); }
  std::string any_path(size_t directory) { return path(directory, names[below(names.size())]); }
  std::string any_path() { return any_path(any_directory()); }
  std::string path(size_t directory, const char* name) const {
    return plan_.directories[directory].string() + "/" + name;
  }
  uint64_t any_offset() {
    const uint64_t offset = below(largest_file);
    return below(4) == 0 ? offset : offset / 4096 * 4096;
  }
  uint64_t any_length() {
    switch (below(4)) {
      case 0:
        return 1 + below(600);
      case 1:
        return 4096 * (1 + below(4));
      default:
        return 1 + below(largest_piece);
    }
  }
  bool growing() const { return plan_.phase == RandomPhase::growing; }

  // Counts one operation's result; ENOSPC and what `also` names are no faults.
  void judge(const char* what, int64_t result, std::initializer_list<int> also = {}) {
    tally_.operations += 1;
    if (result >= 0) return;
    const int error = errno;
    if (error == ENOSPC) {
      tally_.refusals += 1;
    } else if (std::find(also.begin(), also.end(), error) == also.end() && tally_.wrong[0] == 0) {
      snprintf(tally_.wrong, sizeof tally_.wrong, "%s: errno %d (%m)", what, error);
    }
  }

  Fd open_any(const std::string& file) {
    Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd) judge("open", -1, {ENOENT});
    return fd;
  }

  void one_operation() {
    const uint64_t dice = below(100);
    if (dice < 30) return write_somewhere();
    if (dice < 38) return append();
    if (dice < 41) return truncate();
    if (dice < 48) return allocate(FALLOC_FL_KEEP_SIZE * static_cast<int>(below(2)), "fallocate");
    if (dice < 54) return growing() ? append() : allocate(FALLOC_FL_ZERO_RANGE, "zero range");
    if (dice < 62) return copy();
    if (dice < 67) return write_mapped();
    if (dice < 72) return add_entry();
    if (growing()) return write_somewhere();
    if (dice < 78) return allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch");
    if (dice < 81) return remove_entry();
    if (dice < 83) return unlink_while_open();
    if (dice < 88) return write_kept();
    if (dice < 92) return rename_entry();
    return write_somewhere();
  }

  void write_somewhere() {
    const Fd fd = open_any(any_path());
    if (fd)
      judge("write", ::pwrite(fd.get(), buffer_.data(), any_length(), static_cast<off_t>(any_offset())));
  }
  // At or some way past the end.
  void append() {
    const Fd fd = open_any(any_path());
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0 || st.st_size > static_cast<off_t>(largest_file)) return;
    const off_t gap = below(2) == 0 ? 0 : static_cast<off_t>(below(256 * KiB));
    judge("append", ::pwrite(fd.get(), buffer_.data(), any_length(), st.st_size + gap));
  }
  void truncate() {
    const Fd fd = open_any(any_path());
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0) return;
    const auto size = static_cast<off_t>(below(largest_file));
    // Growing: to more than anything else makes a file, so that it never cuts what another process just
    // wrote.
    if (growing()) return judge("extend", ::ftruncate(fd.get(), static_cast<off_t>(2 * largest_file)));
    judge("truncate", ::ftruncate(fd.get(), size));
  }
  void allocate(int mode, const char* what) {
    const Fd fd = open_any(any_path());
    if (!fd) return;
    judge(what,
          ::fallocate(fd.get(), mode, static_cast<off_t>(any_offset()), static_cast<off_t>(any_length())),
          {EOPNOTSUPP});
  }
  void copy() {
    const Fd from = open_any(any_path());
    const Fd to = open_any(any_path());
    if (!from || !to) return;
    off_t source = static_cast<off_t>(any_offset() / 4096 * 4096);
    off_t target = static_cast<off_t>(any_offset() / 4096 * 4096);
    if (!growing()) {
      return judge("copy", ::copy_file_range(from.get(), &source, to.get(), &target, any_length(), 0),
                   {EINVAL});
    }
    // Copying over what is there frees blocks: a growing phase copies past the end.
    struct stat st {};
    if (::fstat(to.get(), &st) != 0 || st.st_size > static_cast<off_t>(largest_file)) return;
    target = (st.st_size + 4095) / 4096 * 4096 + static_cast<off_t>(below(16) * 64 * KiB);
    judge("copy", ::copy_file_range(from.get(), &source, to.get(), &target, 64 * KiB, 0), {EINVAL});
  }

  void write_mapped() {
    const Fd fd = open_any(path(any_directory(), mapped_names[below(mapped_names.size())]));
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0 || st.st_size < 4096) return;
    const auto length =
        static_cast<size_t>(std::min(st.st_size, static_cast<off_t>(256 * KiB)) / 4096 * 4096);
    void* const map = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (map == MAP_FAILED) return judge("mmap", -1, {ENODEV});
    if (sigsetjmp(after_bus_error, 1) == 0) {
      auto* const bytes = static_cast<volatile char*>(map);
      for (size_t at = below(4096); at < length; at += 8192) bytes[at] = 'm';
      judge("msync", ::msync(map, length, MS_SYNC));
    }
    ::munmap(map, length);
  }

  void add_entry() {
    const size_t directory = any_directory();
    const std::string made = path(directory, "sub/") + std::string(40, 'n') + std::to_string(below(200));
    switch (below(4)) {
      case 0:
        return judge("mkdir", ::mkdir(made.c_str(), 0755), {EEXIST});
      case 1:
        return judge("symlink", ::symlink(std::string(100 + below(900), 's').c_str(), made.c_str()),
                     {EEXIST});
      case 2:
        return judge("mknod", ::mknod(made.c_str(), S_IFREG | 0644, 0), {EEXIST});
      default:
        break;
    }
    const size_t target = any_directory();
    const std::string name = path(target, "sub/l") + std::to_string(below(20));
    judge("link", ::link(any_path(directory).c_str(), name.c_str()), {EEXIST, ENOENT, EXDEV});
  }
  void remove_entry() {
    const size_t directory = any_directory();
    const std::string made = path(directory, "sub/") + std::string(40, 'n') + std::to_string(below(200));
    const std::string linked = path(directory, "sub/l") + std::to_string(below(20));
    switch (below(4)) {
      case 0:
        return judge("rmdir", ::rmdir(made.c_str()), {ENOENT, ENOTDIR});
      case 1:
        return judge("unlink", ::unlink(made.c_str()), {ENOENT, EISDIR});
      case 2:
        return judge("unlink", ::unlink(linked.c_str()), {ENOENT});
      default:
        return judge("unlink", ::unlink(any_path(directory).c_str()), {ENOENT});
    }
  }
  // Keeps the descriptor; write_kept() goes on writing to what has no name any more.
  void unlink_while_open() {
    const std::string file = any_path();
    Fd fd = open_any(file);
    if (!fd) return;
    judge("write", ::pwrite(fd.get(), buffer_.data(), any_length(), static_cast<off_t>(any_offset())));
    judge("unlink", ::unlink(file.c_str()), {ENOENT});
    if (kept_.size() == most_open) kept_.erase(kept_.begin());
    kept_.push_back(std::move(fd));
  }
  void write_kept() {
    if (kept_.empty()) return unlink_while_open();
    const Fd& fd = kept_[below(kept_.size())];
    judge("write", ::pwrite(fd.get(), buffer_.data(), any_length(), static_cast<off_t>(any_offset())));
  }
  void rename_entry() {
    const size_t from = any_directory();
    const size_t to = plan_.phase == RandomPhase::moving ? any_directory() : from;
    const std::string source = any_path(from);
    const std::string target = any_path(to);
    // Another process may write to it meanwhile: the larger of a look before and one after, and a piece more.
    struct stat before {};
    if (::stat(source.c_str(), &before) != 0) before.st_blocks = 0;
    const int result = ::rename(source.c_str(), target.c_str());
    struct stat after {};
    if (result == 0 && from != to) {
      if (::stat(target.c_str(), &after) != 0) after.st_blocks = 0;
      tally_.moved_in[to] +=
          static_cast<uint64_t>(std::max(before.st_blocks, after.st_blocks)) * 512 + largest_piece;
    }
    judge("rename", result, {ENOENT});
  }

  const RandomPlan& plan_;
  RandomTally& tally_;
  std::mt19937_64 random_;
  std::string buffer_;
  std::vector<Fd> kept_;
};

}  // namespace

void random_process(const RandomPlan& plan, unsigned process, RandomTally& tally) {
  ::signal(SIGBUS, on_bus_error);
  Process(plan, process, tally).run(plan.operations / random_processes);
}

}  // namespace limaquota::mount_tests
