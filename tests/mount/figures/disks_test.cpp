// Disks beside the VMs, what is found at the mount, and what lies outside.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mount/harness/full_account.hpp"

namespace limaquota::mount_tests {
namespace {

void write_file(const fs::path& path, uint64_t size) {
  const Fd file = create_file(path);
  EXPECT_EQ(write_range(file.get(), 0, size).error, 0);
  EXPECT_EQ(::fsync(file.get()), 0);
}

class AttachedDiskTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    vm_ = home().make_vm("vm");
    disk_ = mount() / "_disks/data";
    fs::create_directories(disk_);
    write_file(disk_ / "datadisk", 4 * MiB);
  }
  void attach() { ASSERT_EQ(errno_of(::symlink(vm_.c_str(), (disk_ / "in_use_by").c_str())), 0); }
  void detach() { ASSERT_EQ(errno_of(::unlink((disk_ / "in_use_by").c_str())), 0); }
  void expect_rest(const std::string& account) {
    EXPECT_TRUE(home().comes_to_rest(account))
        << account << ": used " << home().used(account) << ", du " << home().du(account);
  }

  fs::path vm_;
  fs::path disk_;
};

TEST_P(AttachedDiskTest, DetachedDiskIsAnAccountOfItsOwn) {
  expect_rest("_disks/data");
  EXPECT_GE(home().used("_disks/data"), 4 * MiB);
  EXPECT_LT(home().used("vm"), MiB);
  home().set_limit("_disks/data", "limit 8MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = open_file(disk_ / "datadisk", O_RDWR);
  EXPECT_EQ(write_range(disk.get(), 4 * MiB, 64 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("_disks/data"), 8 * MiB);
  EXPECT_GE(home().du("_disks/data") + MiB, 7 * MiB);
}

TEST_P(AttachedDiskTest, AttachingMovesTheChargeAndDetachingMovesItBack) {
  attach();
  expect_rest("vm");
  EXPECT_GE(home().used("vm"), 4 * MiB);
  const std::string disks = home().usage("vm")["disk"];
  EXPECT_NE(disks.find("_disks/data/datadisk"), std::string::npos) << disks;
  detach();
  expect_rest("vm");
  EXPECT_LT(home().used("vm"), MiB);
  expect_rest("_disks/data");
  EXPECT_GE(home().used("_disks/data"), 4 * MiB);
}

TEST_P(AttachedDiskTest, AttachedDiskIsHeldToTheVmsLimit) {
  home().set_limit("vm", "limit 8MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = open_file(disk_ / "datadisk", O_RDWR);
  attach();
  OvershootWatch watch(home(), "vm");
  EXPECT_EQ(write_range(disk.get(), 4 * MiB, 64 * MiB).error, ENOSPC);
  EXPECT_LE(watch.stop(), 8 * MiB);
  const Fd own(::open((vm_ / "disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  EXPECT_EQ(write_range(own.get(), 0, 2 * MiB).error, ENOSPC);
  expect_rest("vm");
}

TEST_P(AttachedDiskTest, AttachingIsNotRefusedWhereItMakesTheVmOver) {
  home().set_limit("vm", "limit 2MiB\n");
  attach();
  expect_rest("vm");
  EXPECT_EQ(home().state("vm"), "over");
}

TEST_P(AttachedDiskTest, AttachmentIsFoundAtTheMount) {
  attach();
  home().remount();
  expect_rest("vm");
  EXPECT_GE(home().used("vm"), 4 * MiB);
}

TEST_P(AttachedDiskTest, DiskOfAVmThatIsGoneIsAnAccountOfItsOwn) {
  attach();
  fs::remove_all(vm_);
  EXPECT_TRUE(eventually([&] { return fs::exists(mount() / ".usage/_disks/data"); }));
  expect_rest("_disks/data");
  EXPECT_GE(home().used("_disks/data"), 4 * MiB);
}

TEST_P(AttachedDiskTest, DiskAttachedToSomethingElseIsAnAccountOfItsOwn) {
  ASSERT_EQ(::symlink("/nonexistent/elsewhere", (disk_ / "in_use_by").c_str()), 0);
  expect_rest("_disks/data");
  EXPECT_GE(home().used("_disks/data"), 4 * MiB);
}

TEST_P(AttachedDiskTest, DeletedDiskGivesItsBytesBack) {
  attach();
  fs::remove_all(disk_);
  expect_rest("vm");
  EXPECT_LT(home().used("vm"), MiB);
  EXPECT_FALSE(fs::exists(mount() / ".usage/_disks/data"));
}

// What is there before the mount.
class FoundAtMountTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override {
    for (const char* name : {"one", "two", "_config", "_disks/data"}) fs::create_directories(home / name);
    for (const char* name : {"one/disk", "two/disk", "_config/file", "_disks/data/datadisk"}) {
      write_file(home / name, 2 * MiB);
    }
    fs::create_hard_link(home / "one/disk", home / "one/again");
    fs::create_hard_link(home / "one/disk", home / "two/linked");
    fs::create_hard_link(home / "_config/file", home / "two/shared");
  }
};

TEST_P(FoundAtMountTest, LinksAcrossAccountsCountInBoth) {
  home().expect_log(".*link.*");
  for (const char* account : {"one", "two", "_shared", "_disks/data"}) {
    EXPECT_TRUE(home().comes_to_rest(account)) << account;
  }
  EXPECT_GE(home().used("one"), 2 * MiB);
  EXPECT_LT(home().used("one"), 3 * MiB) << "twice in the same account counts once";
  EXPECT_GE(home().used("two"), 6 * MiB);
}

TEST_P(FoundAtMountTest, GrowthOfALinkAcrossAccountsCountsInBoth) {
  home().expect_log(".*link.*");
  const Fd disk = open_file(mount() / "two/linked", O_RDWR);
  ASSERT_EQ(write_range(disk.get(), 2 * MiB, 2 * MiB).error, 0);
  EXPECT_TRUE(home().comes_to_rest("one"));
  EXPECT_TRUE(home().comes_to_rest("two"));
  EXPECT_GE(home().used("one"), 4 * MiB);
  EXPECT_GE(home().used("two"), 8 * MiB);
}

TEST_P(FoundAtMountTest, UnlinkingOneNameOfALinkAcrossAccountsLeavesTheOther) {
  home().expect_log(".*link.*");
  ASSERT_EQ(::unlink((mount() / "two/linked").c_str()), 0);
  EXPECT_TRUE(home().comes_to_rest("two"));
  EXPECT_TRUE(home().comes_to_rest("one"));
  EXPECT_GE(home().used("one"), 2 * MiB);
  EXPECT_LT(home().used("two"), 5 * MiB);
  ASSERT_EQ(::unlink((mount() / "one/disk").c_str()), 0);
  EXPECT_GE(home().used("one"), 2 * MiB) << "it has another name there";
  ASSERT_EQ(::unlink((mount() / "one/again").c_str()), 0);
  EXPECT_TRUE(home().comes_to_rest("one"));
  EXPECT_LT(home().used("one"), MiB);
}

// A VM directory, and a disk, that lead out of the tree.
class OutsideTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override {
    const fs::path elsewhere = home.parent_path() / "elsewhere";
    for (const char* name : {"vm", "disk"}) fs::create_directories(elsewhere / name);
    fs::create_directories(home / "_disks");
    fs::create_directories(home / "inside");
    fs::create_directory_symlink(elsewhere / "vm", home / "far");
    fs::create_directory_symlink(elsewhere / "disk", home / "_disks/far");
  }
  void SetUp() override {
    MountTest::SetUp();
    if (home_) home().expect_log(".*(outside|out of|symlink|not limited).*");
  }
};

TEST_P(OutsideTest, VmDirectoryThatLeadsOutOfTheTreeIsNotLimitedAndSaysSo) {
  EXPECT_EQ(home().state("far"), "outside");
  EXPECT_EQ(home().state("_disks/far"), "outside");
  EXPECT_EQ(home().state("inside"), "ok");
  EXPECT_NE(home().log().find("far"), std::string::npos) << "the mount warns";
  const Fd disk = create_file(mount() / "far/disk");
  EXPECT_EQ(write_range(disk.get(), 0, 2 * MiB).error, 0);
  EXPECT_TRUE(home().comes_to_rest("_shared"));
}

// btrfs subvolumes inside the tree belong to it, although they look like other filesystems (st_dev) and all
// their roots have the same inode number.
class SubvolumeTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override {
    for (const fs::path& path : {home / "one", home / "one/nested", home / "two"}) {
      ASSERT_EQ(run("btrfs subvolume create " + quoted(path)).status, 0);
      write_file(path / "disk", MiB);
    }
  }
};

TEST_P(SubvolumeTest, SubvolumesBelongToTheirAccounts) {
  for (const char* account : {"one", "two", "_shared"}) EXPECT_TRUE(home().comes_to_rest(account)) << account;
  EXPECT_GE(home().used("one"), 2 * MiB);
  EXPECT_GE(home().used("two"), MiB);
  home().set_limit("one", "limit 8MiB\ncontrol_reserve 1MiB\n");
  const Fd nested = open_file(mount() / "one/nested/disk", O_RDWR);
  EXPECT_EQ(write_range(nested.get(), MiB, 64 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("one"), 8 * MiB);
  const Fd other = open_file(mount() / "two/disk", O_RDWR);
  EXPECT_EQ(write_range(other.get(), MiB, 2 * MiB, 64 * KiB, 9).error, 0);
  EXPECT_TRUE(has_pattern(nested.get(), 0, MiB)) << "one subvolume's file is not another's";
  EXPECT_EQ(errno_of(::rename((mount() / "one/disk").c_str(), (mount() / "one/nested/moved").c_str())), EXDEV)
      << "as on the backing";
}

LIMAQUOTA_ON(SubvolumeTest, "btrfs");
LIMAQUOTA_ON_ALL(AttachedDiskTest);
LIMAQUOTA_ON_ALL(FoundAtMountTest);
LIMAQUOTA_ON_ALL(OutsideTest);

}  // namespace
}  // namespace limaquota::mount_tests
