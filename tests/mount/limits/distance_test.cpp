// How near a writer gets to its line, and that none gets over it (P1, P3), whatever the backing
// filesystem allocates late.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <thread>

#include "tests/mount/harness/full_account.hpp"

namespace limaquota::mount_tests {
namespace {

// Large enough that XFS preallocates more beyond EOF than the distance allowed.
uint64_t sequential_limit() { return slow_build() ? 48 * MiB : 128 * MiB; }
// Of single blocks: smaller, since each is a request.
uint64_t scattered_limit() { return slow_build() ? 24 * MiB : 64 * MiB; }

class DistanceTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    vm_ = home().make_vm("vm");
  }
  // Sets the limit and the disk line that the test is about.
  void set_line(uint64_t bytes) {
    limit_ = bytes;
    line_ = bytes - 4 * MiB;
    home().set_limit("vm", fmt::format("limit {}\ncontrol_reserve 4MiB\n", limit_));
  }
  // What is in the account but in this file.
  uint64_t besides(const char* file) { return home().du("vm") - allocated(home().backing() / "vm" / file); }
  void expect_never_over(OvershootWatch& watch, uint64_t most) {
    EXPECT_LE(watch.stop(), most) << "at some moment of " << watch.samples() << ", or after sync";
  }
  void say(const char* what, uint64_t distance) {
    fmt::print("[ distance ] {} {}: {} bytes\n", filesystem(), what, distance);
  }

  fs::path vm_;
  uint64_t limit_ = 0;
  uint64_t line_ = 0;
};

TEST_P(DistanceTest, SequentialDiskWriterGetsWithinOneMiBOfTheDiskLine) {
  set_line(sequential_limit());
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  const Written written = write_range(disk.get(), 0, 2 * limit_, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  const uint64_t reached = written.bytes + besides("disk");
  EXPECT_LE(reached, line_);
  EXPECT_GE(reached + MiB, line_);
  expect_never_over(watch, limit_);
  EXPECT_LE(home().du("vm"), line_);
  EXPECT_TRUE(has_pattern(disk.get(), 0, written.bytes));
  say("sequential disk writer to the disk line", line_ - reached);
}

TEST_P(DistanceTest, SequentialControlFileGetsWithinOneMiBOfTheLimit) {
  set_line(sequential_limit());
  OvershootWatch watch(home(), "vm");
  const Fd log = open_file(vm_ / "ha.stderr.log", O_RDWR | O_CREAT | O_APPEND);
  const Written written = write_range(log.get(), 0, 2 * limit_, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  const uint64_t reached = written.bytes + besides("ha.stderr.log");
  EXPECT_LE(reached, limit_);
  EXPECT_GE(reached + MiB, limit_);
  expect_never_over(watch, limit_);
  say("sequential control file to the limit", limit_ - reached);
}

TEST_P(DistanceTest, SequentialWriterIntoASparseDiskGetsWithinOneMiBOfTheDiskLine) {
  set_line(sequential_limit());
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
  const Written written = write_range(disk.get(), 0, 2 * limit_, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  const uint64_t reached = written.bytes + besides("disk");
  EXPECT_LE(reached, line_);
  EXPECT_GE(reached + MiB, line_);
  expect_never_over(watch, limit_);
}

TEST_P(DistanceTest, BadlyFragmentingDiskWriterGetsWithinTwoPercentOfTheDiskLine) {
  set_line(scattered_limit());
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
  const Written written = write_scattered(disk.get(), 0, 4 * limit_, block(), 2 * block());
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  expect_never_over(watch, limit_);
  const uint64_t reached = home().du("vm");
  EXPECT_LE(reached, line_);
  EXPECT_GE(reached + line_ / 50, line_);
  say("fragmenting disk writer to the disk line", line_ - std::min(line_, reached));
}

TEST_P(DistanceTest, BadlyFragmentingControlFileGetsWithinTwoPercentOfTheLimit) {
  set_line(scattered_limit());
  OvershootWatch watch(home(), "vm");
  const Fd log = create_file(vm_ / "serial.log");
  const Written written = write_scattered(log.get(), 0, 4 * limit_, block(), 2 * block());
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(log.get()), 0);
  expect_never_over(watch, limit_);
  EXPECT_GE(home().du("vm") + limit_ / 50, limit_);
}

// ext4 splits a full leaf at the place of the insertion: blocks between others, in ascending order, leave
// small pieces of it behind.
TEST_P(DistanceTest, BlocksBetweenOthersDoNotPassTheLimit) {
  set_line(scattered_limit());
  OvershootWatch watch(home(), "vm");
  const Fd log = create_file(vm_ / "serial.log");
  const uint64_t part = limit_ * 2;  // a quarter of it written: half of the limit
  EXPECT_EQ(write_scattered(log.get(), 0, part, block(), 4 * block()).error, 0);
  EXPECT_EQ(::fsync(log.get()), 0);
  EXPECT_EQ(write_scattered(log.get(), 2 * block(), 4 * limit_, block(), 4 * block()).error, ENOSPC);
  EXPECT_EQ(::fsync(log.get()), 0);
  expect_never_over(watch, limit_);
  EXPECT_GE(home().du("vm") + limit_ / 50, limit_);
}

TEST_P(DistanceTest, ManyWritersOfOneAccountStayWithinTheLimitTogether) {
  home().set_limit("vm", "limit 48MiB\ncontrol_reserve 1MiB\n");
  const uint64_t most = 48 * MiB;
  OvershootWatch watch(home(), "vm");
  std::vector<std::thread> writers;
  for (const char* name : {"disk", "diffdisk", "iso", "log"}) {
    writers.emplace_back([this, name] {
      const Fd file(::open((vm_ / name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
      // Half scattered, so that late metadata is in play too.
      if (name[0] == 'd') {
        write_scattered(file.get(), 0, 4 * most, 4 * KiB, 12 * KiB);
      } else {
        write_range(file.get(), 0, 4 * most, 20 * KiB);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  expect_never_over(watch, most);
  EXPECT_GE(home().du("vm") + most / 50 + MiB, most);
}

TEST_P(DistanceTest, ManySmallFilesStayWithinTheLimit) {
  home().set_limit("vm", "limit 4MiB\ncontrol_reserve 1MiB\n");
  OvershootWatch watch(home(), "vm");
  int error = 0;
  for (int i = 0; i < 20000 && error == 0; ++i) {
    error = write_text(vm_ / fmt::format("file-with-a-rather-long-name-{}", i), std::string(1500, 'x'));
  }
  EXPECT_EQ(error, ENOSPC);
  expect_never_over(watch, 4 * MiB);
}

LIMAQUOTA_ON_ALL(DistanceTest);

}  // namespace
}  // namespace limaquota::mount_tests
