// How near a writer gets to its line, and that none gets over it (promises 1 and 3), whatever the backing
// filesystem allocates late.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <thread>

#include "tests/mount/limits_fill.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t limit = 128 * MiB;
constexpr uint64_t line = limit - 4 * MiB;

class DistanceTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    vm_ = home().make_vm("vm");
    home().set_limit("vm", "limit 128MiB\ncontrol_reserve 4MiB\n");
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
};

TEST_P(DistanceTest, SequentialDiskWriterGetsWithinOneMiBOfTheDiskLine) {
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  const Written written = write_range(disk.get(), 0, 2 * limit, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  const uint64_t reached = written.bytes + besides("disk");
  EXPECT_LE(reached, line);
  EXPECT_GE(reached + MiB, line);
  expect_never_over(watch, limit);
  EXPECT_LE(home().du("vm"), line);
  EXPECT_TRUE(has_pattern(disk.get(), 0, written.bytes));
  say("sequential disk writer to the disk line", line - reached);
}

TEST_P(DistanceTest, SequentialControlFileGetsWithinOneMiBOfTheLimit) {
  OvershootWatch watch(home(), "vm");
  const Fd log = open_file(vm_ / "ha.stderr.log", O_RDWR | O_CREAT | O_APPEND);
  const Written written = write_range(log.get(), 0, 2 * limit, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  const uint64_t reached = written.bytes + besides("ha.stderr.log");
  EXPECT_LE(reached, limit);
  EXPECT_GE(reached + MiB, limit);
  expect_never_over(watch, limit);
  say("sequential control file to the limit", limit - reached);
}

TEST_P(DistanceTest, SequentialWriterIntoASparseDiskGetsWithinOneMiBOfTheDiskLine) {
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
  const Written written = write_range(disk.get(), 0, 2 * limit, 64 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  const uint64_t reached = written.bytes + besides("disk");
  EXPECT_LE(reached, line);
  EXPECT_GE(reached + MiB, line);
  expect_never_over(watch, limit);
}

TEST_P(DistanceTest, BadlyFragmentingDiskWriterGetsWithinTwoPercentOfTheDiskLine) {
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
  const Written written = write_scattered(disk.get(), 0, 4 * limit, block(), 2 * block());
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  expect_never_over(watch, limit);
  const uint64_t reached = home().du("vm");
  EXPECT_LE(reached, line);
  EXPECT_GE(reached + line / 50, line);
  say("fragmenting disk writer to the disk line", line - std::min(line, reached));
}

TEST_P(DistanceTest, BadlyFragmentingControlFileGetsWithinTwoPercentOfTheLimit) {
  OvershootWatch watch(home(), "vm");
  const Fd log = create_file(vm_ / "serial.log");
  const Written written = write_scattered(log.get(), 0, 4 * limit, block(), 2 * block());
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(log.get()), 0);
  expect_never_over(watch, limit);
  EXPECT_GE(home().du("vm") + limit / 50, limit);
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
  home().set_limit("vm", "limit 8MiB\ncontrol_reserve 1MiB\n");
  OvershootWatch watch(home(), "vm");
  int error = 0;
  for (int i = 0; i < 20000 && error == 0; ++i) {
    error = write_text(vm_ / fmt::format("file-with-a-rather-long-name-{}", i), std::string(600, 'x'));
  }
  EXPECT_EQ(error, ENOSPC);
  expect_never_over(watch, 8 * MiB);
}

LIMAQUOTA_ON_ALL(DistanceTest);

}  // namespace
}  // namespace limaquota::mount_tests
