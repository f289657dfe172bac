// Limits outlive the mount, follow their VM, and a file that was damaged underneath is never silent.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class QuotaKeptTest : public MountTest {
 protected:
  uint64_t limit(const std::string& account) { return home().figure(account, "limit"); }
  bool kept(const std::string& name) { return fs::exists(home().backing() / ".quota" / name); }
};

TEST_P(QuotaKeptTest, LimitsSurviveARemount) {
  home().make_vm("vm");
  home().make_vm("other");
  fs::create_directories(mount() / "_disks" / "data");
  home().set_limit("vm", "limit 64MiB\ncontrol_reserve 1MiB\nwarn 50%\n");
  home().set_limit("_default", "2GiB");
  home().set_limit("_shared", "3GiB");
  home().set_limit("_disks/data", "4GiB");
  home().set_limit("_host", "reserve 640MiB\n");
  const std::string text = read_text(mount() / ".quota" / "vm");
  home().remount();
  EXPECT_EQ(limit("vm"), 64 * MiB);
  EXPECT_EQ(limit("other"), 2 * GiB);
  EXPECT_EQ(limit("_shared"), 3 * GiB);
  EXPECT_EQ(limit("_disks/data"), 4 * GiB);
  EXPECT_EQ(home().figure("_host", "reserve"), 640 * MiB);
  EXPECT_EQ(read_text(mount() / ".quota" / "vm"), text);
}

TEST_P(QuotaKeptTest, AfterACrashLimitsAndFiguresAreRight) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\n");
  {
    const Fd disk = create_file(vm / "disk");
    ASSERT_EQ(write_range(disk.get(), 0, 20 * MiB).error, 0);
  }
  EXPECT_EQ(home().end_with_signal(SIGKILL), 128 + SIGKILL);
  home().remount();
  EXPECT_EQ(limit("vm"), 64 * MiB);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_GE(home().used("vm"), 20 * MiB);
}

TEST_P(QuotaKeptTest, ALoanThatEndedWhileUnmountedIsDroppedAtTheNextMount) {
  home().make_vm("vm");
  const auto lent_until = [](int64_t time) {
    return "limit 64MiB\nloan 16MiB until " + std::to_string(time) + "\n";
  };
  const int64_t now = ::time(nullptr);
  home().set_limit("vm", lent_until(now + 3600));
  ASSERT_EQ(home().unmount(), 0);
  const fs::path kept = home().backing() / ".quota" / "vm";
  EXPECT_NE(read_text(kept).find("loan"), std::string::npos);
  // As if it had been unmounted for an hour.
  ASSERT_EQ(write_text(kept, lent_until(now - 1)), 0);
  home().remount();
  EXPECT_EQ(limit("vm"), 64 * MiB);
  EXPECT_TRUE(eventually(
      [&] { return read_text(home().backing() / ".quota" / "vm").find("loan") == std::string::npos; }));
}

TEST_P(QuotaKeptTest, ALoanSurvivesARemountWhileItLasts) {
  home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\nloan 16MiB until " + std::to_string(::time(nullptr) + 3600) + "\n");
  home().remount();
  EXPECT_EQ(limit("vm"), 80 * MiB);
}

TEST_P(QuotaKeptTest, ADamagedFileIsReportedAndTheDefaultHolds) {
  home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\n");
  home().set_limit("_default", "256MiB");
  ASSERT_EQ(home().unmount(), 0);
  ASSERT_EQ(write_text(home().backing() / ".quota" / "vm", std::string("li\0it 64MiB\n", 12)), 0);
  home().expect_log("vm");
  home().remount();
  EXPECT_EQ(limit("vm"), 256 * MiB);
  EXPECT_EQ(home().state("vm"), "damaged");
  EXPECT_NE(home().log().find("vm"), std::string::npos);
  home().set_limit("vm", "limit 96MiB\n");
  EXPECT_EQ(limit("vm"), 96 * MiB);
  EXPECT_EQ(home().state("vm"), "ok");
}

TEST_P(QuotaKeptTest, AFileCutToNothingUnderneathIsReportedToo) {
  home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\n");
  ASSERT_EQ(home().unmount(), 0);
  ASSERT_EQ(write_text(home().backing() / ".quota" / "vm", ""), 0);
  home().expect_log("vm");
  home().remount();
  EXPECT_EQ(home().state("vm"), "damaged");
}

TEST_P(QuotaKeptTest, ALimitFollowsARenamedVm) {
  home().make_vm("before");
  home().set_limit("before", "limit 64MiB\n");
  ASSERT_EQ(errno_of(::rename((mount() / "before").c_str(), (mount() / "after").c_str())), 0);
  EXPECT_EQ(limit("after"), 64 * MiB);
  EXPECT_TRUE(kept("after"));
  EXPECT_FALSE(kept("before"));
  home().make_vm("before");
  EXPECT_EQ(home().usage("before")["limit"], "max");
}

// limactl rename makes a new directory and moves the files one by one.
TEST_P(QuotaKeptTest, ALimitFollowsItsLimaYaml) {
  const fs::path before = home().make_vm("before");
  home().set_limit("before", "limit 64MiB\n");
  {
    const Fd disk = create_file(before / "disk");
    ASSERT_EQ(write_range(disk.get(), 0, 30 * MiB).error, 0);
  }
  const fs::path after = mount() / "after";
  ASSERT_EQ(errno_of(::mkdir(after.c_str(), 0755)), 0);
  for (const char* name : {"disk", "lima.yaml"})
    ASSERT_EQ(errno_of(::rename((before / name).c_str(), (after / name).c_str())), 0) << name;
  ASSERT_EQ(errno_of(::rmdir(before.c_str())), 0);
  EXPECT_EQ(limit("after"), 64 * MiB);
  EXPECT_TRUE(kept("after"));
  EXPECT_FALSE(kept("before"));
  EXPECT_TRUE(home().comes_to_rest("after"));
  EXPECT_GE(home().used("after"), 30 * MiB);
}

TEST_P(QuotaKeptTest, ALimitFileOfTheNewNameWinsOverTheOld) {
  home().make_vm("before");
  home().make_vm("after");
  home().set_limit("before", "limit 64MiB\n");
  home().set_limit("after", "limit 96MiB\n");
  fs::remove_all(mount() / "after");
  ASSERT_EQ(errno_of(::rename((mount() / "before").c_str(), (mount() / "after").c_str())), 0);
  EXPECT_EQ(limit("after"), 96 * MiB);
  EXPECT_TRUE(kept("before"));
}

TEST_P(QuotaKeptTest, DeletingAVmKeepsItsLimitFile) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\n");
  create_file(vm / "disk");
  fs::remove_all(vm);
  EXPECT_TRUE(kept("vm"));
  EXPECT_NE(read_text(mount() / ".quota" / "vm").find("limit"), std::string::npos);
  home().make_vm("vm");
  EXPECT_EQ(limit("vm"), 64 * MiB);
}

TEST_P(QuotaKeptTest, AnAttachedDiskIsChargedToItsVmAndADetachedOneToItself) {
  const fs::path vm = home().make_vm("vm");
  const fs::path data = mount() / "_disks" / "data";
  fs::create_directories(data);
  home().set_limit("_disks/data", "limit 1GiB\n");
  const Fd disk = create_file(data / "datadisk");
  ASSERT_EQ(write_range(disk.get(), 0, 10 * MiB).error, 0);
  EXPECT_GE(home().used("_disks/data"), 10 * MiB);
  EXPECT_LT(home().used("vm"), 1 * MiB);
  ASSERT_EQ(errno_of(::symlink(vm.c_str(), (data / "in_use_by").c_str())), 0);
  EXPECT_GE(home().used("vm"), 10 * MiB);
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(write_range(disk.get(), 10 * MiB, 20 * MiB).error, ENOSPC);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  ASSERT_EQ(errno_of(::unlink((data / "in_use_by").c_str())), 0);
  EXPECT_EQ(write_range(disk.get(), 20 * MiB, 10 * MiB).error, 0);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_TRUE(home().comes_to_rest("_disks/data"));
  EXPECT_LT(home().used("vm"), 1 * MiB);
}

LIMAQUOTA_ON(QuotaKeptTest, "tmpfs", "ext4", "xfs");

}  // namespace
}  // namespace limaquota::mount_tests
