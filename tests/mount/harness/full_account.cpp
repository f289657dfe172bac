#include "tests/mount/harness/full_account.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <ostream>
#include <random>

namespace limaquota::mount_tests {
namespace {

// Appends until not even one block is taken.
uint64_t append_until_refused(const Fd& fd, uint64_t block) {
  uint64_t appended = 0;
  for (const uint64_t piece : {256 * KiB, 16 * KiB, block}) {
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return appended;
    appended += write_range(fd.get(), static_cast<uint64_t>(st.st_size), 16 * GiB, piece).bytes;
  }
  return appended;
}

}  // namespace

uint64_t fill_up(const fs::path& file, uint64_t block) {
  const Fd fd = open_file(file, O_RDWR | O_CREAT);
  uint64_t appended = 0;
  // What the first rounds reserve for late metadata is given back to the writer who needs it after fsync.
  // What another file holds of it is not there while the daemon looks at that file just then: hence twice.
  for (int refused = 0; refused < 2;) {
    const uint64_t now = append_until_refused(fd, block);
    appended += now;
    refused = now == 0 ? refused + 1 : 0;
    ::fsync(fd.get());
  }
  return appended;
}

void fill_rest(const fs::path& vm, uint64_t block) {
  fill_up(vm / "iso", block);
  fill_up(vm / "log", block);
}

void fill_account(MountedHome& home, const std::string& vm, uint64_t block) {
  const fs::path directory = home.mount() / vm;
  // A file of few blocks needs no late metadata, so it takes what a larger one has to leave. Made while there
  // is room for names.
  constexpr int crumbs = 8;
  const auto crumb = [&](int i) { return directory / ("crumb" + std::to_string(i)); };
  for (int i = 0; i < crumbs; ++i) create_file(crumb(i));
  fill_up(directory / "disk", block);
  fill_up(directory / "log", block);
  for (int i = 0; i < crumbs; ++i) fill_up(crumb(i), block);
}

FileState state_of(const fs::path& file) {
  struct stat st {};
  EXPECT_EQ(::lstat(file.c_str(), &st), 0) << file;
  return {static_cast<uint64_t>(st.st_size), static_cast<uint64_t>(st.st_blocks) * 512,
          st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec};
}

void PrintTo(const FileState& state, std::ostream* out) {
  *out << "size " << state.size << " allocated " << state.allocated << " modified " << state.modified_ns;
}

std::vector<uint64_t> shuffled(uint64_t count, uint64_t seed) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  return order;
}

}  // namespace limaquota::mount_tests
