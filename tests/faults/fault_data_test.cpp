// Faults under operations on what files hold, at a limit they meet often.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>

#include "tests/faults/fault_fixture.hpp"

namespace limaquota::fault_tests {
namespace {

using namespace mount_tests;

constexpr uint64_t block = 4096;
constexpr uint64_t file_blocks = 1024;
constexpr uint64_t limit = 5 * MiB;
constexpr uint64_t zeros = 0;
constexpr uint64_t unknown = ~uint64_t{0};  // an operation that failed may or may not have done its work

using Block = std::array<uint64_t, block / sizeof(uint64_t)>;

// A file and what must be in it: each block is filled with one number.
struct File {
  std::string name;
  Fd fd;
  std::vector<uint64_t> blocks = std::vector<uint64_t>(file_blocks, zeros);

  void set(uint64_t first, uint64_t count, uint64_t value) {
    for (uint64_t b = first; b < std::min(first + count, file_blocks); ++b) blocks[b] = value;
  }
  // The first `done` bytes of the range are as told, and nothing is known of the rest.
  void set_done(uint64_t first, uint64_t count, ssize_t done, uint64_t value) {
    const uint64_t whole = done > 0 ? static_cast<uint64_t>(done) / block : 0;
    set(first, whole, value);
    set(first + whole, count - whole, unknown);
  }
};

// Random operations on the files of one VM.
class Operations {
 public:
  Operations(const fs::path& vm, bool zero_range, uint64_t seed) : random_(seed), zero_range_(zero_range) {
    for (const char* name : {"disk", "diffdisk", "serial.log", "ha.stderr.log"}) {
      files_.push_back({name, create_file(vm / name)});
    }
  }

  std::vector<File>& files() { return files_; }

  // Its name and its errno, for messages.
  std::pair<std::string, int> one() {
    File& file = files_[below(files_.size())];
    const uint64_t first = below(file_blocks - 128);
    const uint64_t count = 1 + below(128);
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 9:
      case 10:
        return {"write", write(file, first, count)};
      case 4:
        return {"punch", fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, count, zeros)};
      case 5:
        return {"fallocate",
                below(2) == 0 ? ::fallocate(file.fd.get(), 0, at(first), at(count)) != 0 ? errno : 0
                : ::fallocate(file.fd.get(), FALLOC_FL_KEEP_SIZE, at(first), at(count)) != 0 ? errno
                                                                                             : 0};
      case 6:
        return {"truncate", truncate(file, first)};
      case 7:
        return {"copy", copy(file, files_[below(files_.size())], first, below(file_blocks - 128), count)};
      default:
        break;
    }
    if (zero_range_ && below(2) == 0)
      return {"zero range", fallocate(file, FALLOC_FL_ZERO_RANGE, first, count, zeros)};
    return {"fsync", errno_of(below(2) == 0 ? ::fsync(file.fd.get()) : ::fdatasync(file.fd.get()))};
  }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }
  static off_t at(uint64_t blocks) { return static_cast<off_t>(blocks * block); }

  int write(File& file, uint64_t first, uint64_t count) {
    const uint64_t value = ++tag_;
    std::vector<uint64_t> data(count * block / sizeof(uint64_t), value);
    const ssize_t done = ::pwrite(file.fd.get(), data.data(), count * block, at(first));
    const int error = errno_of(done);
    file.set_done(first, count, done, value);
    return error;
  }

  static int fallocate(File& file, int mode, uint64_t first, uint64_t count, uint64_t value) {
    const int error = errno_of(::fallocate(file.fd.get(), mode, at(first), at(count)));
    file.set(first, count, error == 0 ? value : unknown);
    return error;
  }

  static int truncate(File& file, uint64_t size) {
    const int error = errno_of(::ftruncate(file.fd.get(), at(size)));
    file.set(size, file_blocks, error == 0 ? zeros : unknown);
    return error;
  }

  static int copy(File& in, File& out, uint64_t from, uint64_t to, uint64_t count) {
    if (&in == &out) return 0;
    off_t in_offset = at(from);
    off_t out_offset = at(to);
    const ssize_t done =
        ::copy_file_range(in.fd.get(), &in_offset, out.fd.get(), &out_offset, count * block, 0);
    const int error = errno_of(done);
    const uint64_t whole = done > 0 ? static_cast<uint64_t>(done) / block : 0;
    for (uint64_t i = 0; i < count; ++i) out.blocks[to + i] = i < whole ? in.blocks[from + i] : unknown;
    if (error == 0 && done == 0) out.set(to, count, unknown);
    return error;
  }

  std::mt19937_64 random_;
  const bool zero_range_;
  std::vector<File> files_;
  uint64_t tag_ = 0;
};

// What was reported written is there.
void expect_contents(const File& file, const fs::path& path) {
  const Fd fd = open_file(path, O_RDONLY);
  for (uint64_t b = 0; b < file_blocks; ++b) {
    if (file.blocks[b] == unknown) continue;
    Block data{};
    ASSERT_GE(::pread(fd.get(), data.data(), block, static_cast<off_t>(b * block)), 0) << path;
    for (const uint64_t value : data) {
      ASSERT_EQ(value, file.blocks[b]) << path << ", block " << b;
    }
  }
}

class FaultyData : public FaultTest {
 protected:
  void check_contents(Operations& operations) {
    for (const File& file : operations.files()) {
      expect_contents(file, home().backing() / "vm" / file.name);
      expect_contents(file, home().mount() / "vm" / file.name);
    }
  }
};

TEST_P(FaultyData, LeavesLimitFiguresAndReportedDataWhole) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 5MiB\ncontrol_reserve 1MiB\n");
  Operations random(vm, GetParam().filesystem != "tmpfs", seed());
  faults_on();
  for (uint64_t i = 0; i < operations(); ++i) {
    const auto [what, error] = random.one();
    ASSERT_LE(home().du("vm"), limit) << "after operation " << i << ", " << what << ", errno " << error;
  }
  faults_off();
  home().sync_backing();
  EXPECT_LE(home().du("vm"), limit);
  expect_figures_come_right();
  check_contents(random);
  uint64_t refused = 0;
  for (uint64_t i = 0; i < operations() / 3 || refused == 0; ++i) {
    ASSERT_LT(i, 10'000U) << "the limit is never met";
    const auto [what, error] = random.one();
    refused += error == ENOSPC ? 1 : 0;
    EXPECT_TRUE(error == 0 || error == ENOSPC) << what << " without faults: errno " << error;
    ASSERT_LE(home().du("vm"), limit) << "without faults, after " << what << ", errno " << error;
  }
  home().sync_backing();
  EXPECT_LE(home().du("vm"), limit);
  expect_figures_come_right();
  check_contents(random);
  // Nothing stays reserved for what is gone.
  for (File& file : random.files()) {
    EXPECT_EQ(file.fd.close(), 0);
    EXPECT_EQ(errno_of(::unlink((vm / file.name).c_str())), 0);
  }
  EXPECT_TRUE(eventually([&] { return home().figure("vm", "reserved") <= 256 * KiB; }))
      << "reserved " << home().figure("vm", "reserved") << " in an empty VM";
  EXPECT_TRUE(eventually([&] { return home().figure("vm", "writable") > 3 * MiB; }))
      << "writable " << home().figure("vm", "writable") << " in an empty VM";
}

// Near its limit the daemon makes a file on XFS longer by itself before a write, and trims it when it
// settles: what it takes for the file's size must then be true.
class FaultySize : public FaultTest {};

TEST_P(FaultySize, AWriteNeverShortensAFile) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 4MiB\ncontrol_reserve 0\n");
  const Fd filler = create_file(vm / "ha.log");
  ASSERT_EQ(write_range(filler.get(), 0, 2700 * KiB).error, 0);
  ASSERT_EQ(errno_of(::fsync(filler.get())), 0);
  const Fd disk = create_file(vm / "disk");
  faults_on();
  // Where nothing can be looked at, a write may fail; what it acknowledged must be there.
  const uint64_t acknowledged = write_range(disk.get(), 0, 1 * MiB, 1 * MiB).bytes;
  (void)write_range(disk.get(), 0, 4 * KiB);
  faults_off();
  EXPECT_TRUE(has_pattern(disk.get(), 0, acknowledged))
      << "its size is " << fs::file_size(home().backing() / "vm/disk");
}

INSTANTIATE_TEST_SUITE_P(Fault, FaultySize, ::testing::ValuesIn(on_all({"nothing:EIO:1", "fstat:EIO:1"})),
                         name_of);

// The allocation map must not go on believing in blocks that a call freed before it failed.
class FaultyFree : public FaultTest {};

TEST_P(FaultyFree, BlocksFreedByACallThatFailedAreNotWrittenForNothing) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 5MiB\ncontrol_reserve 0\n");
  const Fd disk = create_file(vm / "disk");
  const Fd other = create_file(vm / "diffdisk");
  // At the limit the map is asked for what is there.
  ASSERT_EQ(write_range(disk.get(), 0, 6 * MiB).error, ENOSPC);
  faults_on();
  if (GetParam().rules.starts_with("ftruncate")) {
    EXPECT_EQ(errno_of(::ftruncate(disk.get(), 0)), EIO);
  } else {
    (void)::fallocate(disk.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(6 * MiB));
  }
  faults_off();
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_EQ(write_range(other.get(), 0, 6 * MiB).error, ENOSPC);
  (void)write_range(disk.get(), 0, 3 * MiB);
  home().sync_backing();
  EXPECT_LE(home().du("vm"), limit);
}

INSTANTIATE_TEST_SUITE_P(
    Fault, FaultyFree,
    ::testing::ValuesIn(on_all({"nothing:EIO:1", "ftruncate:late EIO:1", "fallocate:late EIO:1"})), name_of);

constexpr const char* many_faults =
    "pwrite:late EIO:8\nfstat:EIO:8\nfallocate:late EIO:4\nftruncate:late EIO:4\nextents:EIO:8\n"
    "write_back:EIO:4";
const std::vector<std::string> data_faults = {"nothing:EIO:1",
                                              "pwrite:EIO:10",
                                              "pwrite:ENOSPC:10",
                                              "pwrite:short:4",
                                              "pwrite:late EIO:10",
                                              "pwrite:EINTR:10",
                                              "fstat:EIO:10",
                                              "fallocate:EIO:4",
                                              "fallocate:late EIO:4",
                                              "ftruncate:EIO:4",
                                              "ftruncate:late EIO:4",
                                              "fsync:EIO:2",
                                              "write_back:EIO:2",
                                              "extents:EIO:4",
                                              "count_extents:EIO:2",
                                              "copy_file_range:EIO:4",
                                              "copy_file_range:short:2",
                                              "copy_file_range:late EIO:4",
                                              "lseek:EIO:4",
                                              "openat_write:EIO:4",
                                              "fstatvfs:EIO:20",
                                              many_faults};

INSTANTIATE_TEST_SUITE_P(Fault, FaultyData, ::testing::ValuesIn(on_all(data_faults)), name_of);

}  // namespace
}  // namespace limaquota::fault_tests
