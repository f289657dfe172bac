// Freeing always works (P5), and a limit below usage is accepted (P7): at the limit and over
// it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/mount/harness/full_account.hpp"
#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t disk_size = 8 * MiB;
// While over, the metadata that freeing itself needs (P1).
constexpr uint64_t freeing_needs = 64 * KiB;

// Each test runs at the limit and, from another fixture, far over it.
class FreeingTest : public LimitedVmTest {
 protected:
  void SetUp() override {
    LimitedVmTest::SetUp();
    if (!home_) return;
    disk_ = written_disk(disk_size);
    for (int i = 0; i < 50; ++i) ASSERT_EQ(write_text(vm_ / fmt::format("small{}", i), "x"), 0);
    ASSERT_EQ(::mkdir((vm_ / "directory").c_str(), 0755), 0);
    fill_rest();
    reach();
    before_ = home().du("vm");
  }
  void TearDown() override {
    disk_.close();
    if (home_) {
      home().sync_backing();
      EXPECT_LE(home().du("vm"), before_ + allowance()) << "freeing made it more";
    }
    MountTest::TearDown();
  }
  virtual void reach() {}
  virtual uint64_t allowance() const { return 16 * MiB - std::min(before_, 16 * MiB); }

  void unlinks() {
    EXPECT_EQ(errno_of(::unlink((vm_ / "log").c_str())), 0);
    for (int i = 0; i < 50; ++i)
      EXPECT_EQ(errno_of(::unlink((vm_ / fmt::format("small{}", i)).c_str())), 0) << i;
    EXPECT_EQ(errno_of(::unlink((vm_ / "iso").c_str())), 0);
    EXPECT_TRUE(eventually([&] { return home().used("vm") <= disk_size + MiB; })) << home().used("vm");
  }
  void rmdirs() { EXPECT_EQ(errno_of(::rmdir((vm_ / "directory").c_str())), 0); }
  void truncates() {
    const uint64_t used = home().used("vm");
    EXPECT_EQ(errno_of(::ftruncate(disk_.get(), static_cast<off_t>(disk_size - 5000))), 0);
    EXPECT_EQ(errno_of(::ftruncate(disk_.get(), static_cast<off_t>(disk_size / 2))), 0);
    EXPECT_LE(home().used("vm"), used - disk_size / 2 + freeing_needs);
    EXPECT_EQ(errno_of(::truncate((vm_ / "log").c_str(), 0)), 0);
  }
  void opens_truncating() {
    const Fd fd(::open((vm_ / "iso").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    EXPECT_EQ(errno_of(fd.get()), 0);
    EXPECT_EQ(allocated(home().backing() / "vm" / "iso"), 0u);
  }
  void punches() {
    // Single blocks out of the middle of large extents: each may cost metadata before it gives anything back.
    for (uint64_t at = block(); at < disk_size; at += 2 * block()) {
      ASSERT_EQ(errno_of(::fallocate(disk_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     static_cast<off_t>(at), static_cast<off_t>(block()))),
                0)
          << at;
    }
    EXPECT_EQ(::fsync(disk_.get()), 0);
    EXPECT_TRUE(home().comes_to_rest("vm"));
    EXPECT_LE(home().used("vm"), before_ - disk_size / 2 + MiB);
  }
  void renames_inside() {
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(errno_of(::rename((vm_ / fmt::format("small{}", i)).c_str(),
                                  (vm_ / fmt::format("other{}", i)).c_str())),
                0)
          << i;
    }
    EXPECT_EQ(errno_of(::rename((vm_ / "log").c_str(), (vm_ / "log.1").c_str())), 0);
  }
  void removes_everything() {
    disk_.close();
    EXPECT_NO_THROW(fs::remove_all(vm_));
  }

  Fd disk_;
  uint64_t before_ = 0;
};

class FreeingWhileOverTest : public FreeingTest {
 protected:
  void reach() override {
    home().set_limit("vm", "limit 4MiB\n");
    EXPECT_EQ(home().state("vm"), "over");
  }
  uint64_t allowance() const override { return freeing_needs; }
};

TEST_P(FreeingTest, UnlinkWorksAtTheLimit) { unlinks(); }
TEST_P(FreeingTest, RmdirWorksAtTheLimit) { rmdirs(); }
TEST_P(FreeingTest, TruncatingDownWorksAtTheLimit) { truncates(); }
TEST_P(FreeingTest, OpenTruncatingWorksAtTheLimit) { opens_truncating(); }
TEST_P(FreeingTest, PunchingEveryOtherBlockWorksAtTheLimit) { punches(); }
TEST_P(FreeingTest, RenameInsideADirectoryWorksAtTheLimit) { renames_inside(); }
TEST_P(FreeingTest, DeletingTheVmWorksAtTheLimit) { removes_everything(); }

TEST_P(FreeingWhileOverTest, UnlinkWorks) { unlinks(); }
TEST_P(FreeingWhileOverTest, RmdirWorks) { rmdirs(); }
TEST_P(FreeingWhileOverTest, TruncatingDownWorks) { truncates(); }
TEST_P(FreeingWhileOverTest, OpenTruncatingWorks) { opens_truncating(); }
TEST_P(FreeingWhileOverTest, PunchingEveryOtherBlockWorks) { punches(); }
TEST_P(FreeingWhileOverTest, RenameInsideADirectoryWorks) { renames_inside(); }
TEST_P(FreeingWhileOverTest, DeletingTheVmWorks) { removes_everything(); }

TEST_P(FreeingWhileOverTest, AllocationIsRefused) {
  EXPECT_EQ(write_range(disk_.get(), disk_size, 64 * KiB).error, ENOSPC);
  const Fd log = open_file(vm_ / "log", O_RDWR);
  EXPECT_EQ(write_range(log.get(), state_of(vm_ / "log").size + MiB, 64 * KiB).error, ENOSPC);
  EXPECT_EQ(errno_of(::fallocate(disk_.get(), 0, static_cast<off_t>(disk_size), MiB)), ENOSPC);
}

TEST_P(FreeingWhileOverTest, OverwritingWorks) {
  EXPECT_EQ(write_range(disk_.get(), 0, disk_size, 64 * KiB, 5).error, 0);
  EXPECT_TRUE(has_pattern(disk_.get(), 0, disk_size, 5));
}

TEST_P(FreeingWhileOverTest, FiguresSayWhatIs) {
  EXPECT_EQ(home().figure("vm", "limit"), 4 * MiB);
  EXPECT_EQ(home().figure("vm", "available"), 0u);
  EXPECT_EQ(home().figure("vm", "writable"), 0u);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  struct statvfs st {};
  ASSERT_EQ(::statvfs(vm_.c_str(), &st), 0);
  EXPECT_EQ(st.f_bavail, 0u);
}

TEST_P(FreeingWhileOverTest, FreeingBelowTheLimitEndsIt) {
  EXPECT_EQ(errno_of(::unlink((vm_ / "iso").c_str())), 0);
  EXPECT_EQ(errno_of(::unlink((vm_ / "log").c_str())), 0);
  EXPECT_EQ(errno_of(::ftruncate(disk_.get(), MiB)), 0);
  EXPECT_TRUE(eventually([&] { return home().state("vm") == "ok"; })) << home().state("vm");
  EXPECT_EQ(write_range(disk_.get(), MiB, 256 * KiB).error, 0);
}

TEST_P(FreeingTest, WhatIsFreedCanBeWrittenAgain) {
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(
        errno_of(::fallocate(disk_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, disk_size / 2)), 0);
    // All but the slack of late metadata is there again, at once.
    EXPECT_EQ(write_range(disk_.get(), 0, disk_size / 2 - MiB).error, 0) << round;
    EXPECT_LE(home().du("vm"), 16 * MiB);
  }
}

LIMAQUOTA_ON_ALL(FreeingTest);
LIMAQUOTA_ON_ALL(FreeingWhileOverTest);

}  // namespace
}  // namespace limaquota::mount_tests
