// Filesystems that allocate in units larger than a block: huge pages of tmpfs, clusters of a bigalloc ext4,
// extent size hints of XFS. The limit is as hard there.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/mount/harness/full_account.hpp"
#include "tests/mount/harness/own_filesystem.hpp"
#include "tests/mount/harness/worker_killer.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t limit = 48 * MiB;

// On "tmpfs" and "ext4" the home is a filesystem of its own; on "xfs" the home's files inherit a hint.
class LargeUnitTest : public OwnFilesystemTest {
 protected:
  void SetUp() override {
    OwnFilesystemTest::SetUp();
    if (!home_) return;
    vm_ = home().make_vm("vm");
    home().set_limit("vm", "limit 48MiB\ncontrol_reserve 4MiB\n");
  }
  bool has_own() const override { return filesystem() != "xfs"; }
  std::string own_filesystem() override {
    if (filesystem() == "tmpfs") return "-t tmpfs -o huge=always,size=2g tmpfs";
    return on_loop("mkfs.ext4 -q -F -O bigalloc -C 65536");
  }
  void prepare(const fs::path& path) override {
    OwnFilesystemTest::prepare(path);
    if (filesystem() == "xfs") set_hint(path);
  }
  static void set_hint(const fs::path& directory) {
    const Fd fd = open_file(directory, O_RDONLY | O_DIRECTORY);
    fsxattr attributes{};
    ASSERT_EQ(errno_of(::ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes)), 0);
    attributes.fsx_xflags |= FS_XFLAG_EXTSZINHERIT;
    attributes.fsx_extsize = MiB;
    ASSERT_EQ(errno_of(::ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes)), 0);
  }

  void write_scattered_up_to_the_limit() {
    OvershootWatch watch(home(), "vm");
    const Fd disk = create_file(vm_ / "disk");
    ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
    EXPECT_EQ(write_scattered(disk.get(), 0, 10 * GiB, 4 * KiB, 3 * MiB).error, ENOSPC);
    EXPECT_EQ(::fsync(disk.get()), 0);
    EXPECT_LE(watch.stop(), limit);
  }

  fs::path vm_;
};

TEST_P(LargeUnitTest, ScatteredSmallWritesStayWithinTheLimit) { write_scattered_up_to_the_limit(); }

TEST_P(LargeUnitTest, SequentialWriterStaysWithinTheLimitAndComesNear) {
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm_ / "disk");
  const Written written = write_range(disk.get(), 0, 2 * limit);
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  EXPECT_LE(watch.stop(), limit);
  // Two units of the largest kind on top of the MiB.
  EXPECT_GE(written.bytes + 5 * MiB, limit - 4 * MiB);
}

TEST_P(LargeUnitTest, ManySmallFilesStayWithinTheLimit) {
  home().set_limit("vm", "limit 12MiB\ncontrol_reserve 4MiB\n");
  OvershootWatch watch(home(), "vm");
  int error = 0;
  for (int i = 0; i < 20000 && error == 0; ++i) {
    error = write_text(vm_ / fmt::format("file{}", i), std::string(3 * KiB, 'x'));
  }
  EXPECT_EQ(error, ENOSPC);
  EXPECT_LE(watch.stop(), 12 * MiB);
}

TEST_P(LargeUnitTest, OverwritingAtTheLimitIsNotRefused) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 8 * MiB).error, 0);
  ASSERT_EQ(::fsync(disk.get()), 0);
  fill_rest(vm_, 4 * KiB);
  EXPECT_EQ(write_range(disk.get(), 0, 8 * MiB, 4 * KiB, 3).error, 0);
  EXPECT_LE(home().du("vm"), limit);
}

LIMAQUOTA_ON(LargeUnitTest, "tmpfs", "ext4", "xfs");

// In place the mount hides what it lies on from the worker that takes over.
class LargeUnitTakenOverTest : public LargeUnitTest {
 protected:
  MountSetup setup() const override { return {.in_place = true, .options = {}}; }
};

TEST_P(LargeUnitTakenOverTest, TheLimitHoldsAsBefore) {
  if (!workers_are_replaced()) GTEST_SKIP() << "over io_uring nobody takes over";
  home().expect_log(worker_replaced);
  const pid_t worker = home().worker();
  ASSERT_TRUE(kill_worker(home()));
  ASSERT_TRUE(eventually([&] { return home().worker() > 0 && home().worker() != worker; }));
  write_scattered_up_to_the_limit();
}

LIMAQUOTA_ON(LargeUnitTakenOverTest, "tmpfs", "ext4");

// XFS preallocates so much at once behind the smallest file.
class AllocsizeTest : public OwnFilesystemTest {
 protected:
  std::string own_filesystem() override { return "-o allocsize=64m " + on_loop("mkfs.xfs -q"); }
};

TEST_P(AllocsizeTest, AppendsDoNotPassTheLimit) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 24MiB\ncontrol_reserve 1MiB\n");
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm / "disk");
  (void)write_range(disk.get(), 0, 32 * MiB, 4 * KiB);
  const Fd log = create_file(vm / "log");
  (void)write_range(log.get(), 0, 32 * MiB, 4 * KiB);
  EXPECT_LE(watch.stop(), 24 * MiB);
}

LIMAQUOTA_ON(AllocsizeTest, "xfs");

}  // namespace
}  // namespace limaquota::mount_tests
