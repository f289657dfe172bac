// The host survives (P8), control files never starve (P6), and statfs tells both lines.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <thread>

#include "tests/mount/harness/full_account.hpp"

namespace limaquota::mount_tests {
namespace {

class HostReserveTest : public MountTest {
 protected:
  // btrfs tells no free space at all once it can set aside no more for its metadata.
  uint64_t reserve() const { return filesystem() == "btrfs" ? 512 * MiB : 96 * MiB; }

  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    vm_ = home().make_vm("vm");
    other_ = home().make_vm("other");
    home().set_limit("_host", fmt::format("reserve {}\n", reserve()));
    // The rest of the backing filesystem is taken by another program.
    ballast_ = open_file(scratch_->view() / "ballast", O_RDWR | O_CREAT);
    const uint64_t free = home().host_free();
    ASSERT_GT(free, 3 * reserve());
    ASSERT_EQ(errno_of(::fallocate(ballast_.get(), 0, 0, static_cast<off_t>(free - 2 * reserve()))), 0);
    home().sync_backing();
  }
  void TearDown() override {
    if (ballast_) {
      EXPECT_EQ(::ftruncate(ballast_.get(), 0), 0);
      ballast_.close();
    }
    if (!scratch_) return MountTest::TearDown();
    const fs::path filesystem_view = scratch_->view().parent_path();
    MountTest::TearDown();
    // btrfs gives freed space back at its next commit: the next test needs it.
    const Fd fd = open_file(filesystem_view, O_RDONLY | O_DIRECTORY);
    EXPECT_EQ(errno_of(::syncfs(fd.get())), 0);
  }
  // btrfs takes metadata from the host by chunks of its own, after the check.
  uint64_t late() const { return filesystem() == "btrfs" ? 24 * MiB : filesystem() == "tmpfs" ? 0 : MiB; }

  fs::path vm_;
  fs::path other_;
  Fd ballast_;
};

TEST_P(HostReserveTest, DiskFileStopsWithTheReserveLeftAndControlFilesWithAQuarterOfIt) {
  const Fd disk = create_file(vm_ / "disk");
  const Written written = write_range(disk.get(), 0, 2 * GiB, 256 * KiB);
  EXPECT_EQ(written.error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  EXPECT_GE(home().host_free() + late(), reserve());
  if (filesystem() != "btrfs") {
    EXPECT_LE(home().host_free(), reserve() + 4 * MiB);
  }
  EXPECT_EQ(home().state("vm"), "host_full");
  EXPECT_LE(home().figure("vm", "writable"), MiB);
  EXPECT_EQ(errno_of(::fallocate(disk.get(), 0, static_cast<off_t>(2 * GiB), 16 * MiB)), ENOSPC);

  const uint64_t at_disk_stop = home().host_free();
  const Fd log = create_file(vm_ / "ha.stderr.log");
  EXPECT_EQ(write_range(log.get(), 0, 16 * MiB).error, 0);
  EXPECT_EQ(write_range(log.get(), 16 * MiB, GiB).error, ENOSPC);
  EXPECT_EQ(::fsync(log.get()), 0);
  EXPECT_LT(home().host_free(), at_disk_stop);
  EXPECT_GE(home().host_free() + late(), reserve() / 4);
}

TEST_P(HostReserveTest, ReserveHoldsForAllAccountsTogether) {
  std::vector<std::thread> writers;
  for (const fs::path& vm : {vm_, other_}) {
    writers.emplace_back([vm] {
      const Fd disk(::open((vm / "disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
      write_range(disk.get(), 0, GiB, 256 * KiB);
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_GE(home().host_free() + late(), reserve());
  EXPECT_EQ(home().state("vm"), "host_full");
  EXPECT_EQ(home().state("other"), "host_full");
}

TEST_P(HostReserveTest, AnotherProgramThatTakesTheSpaceIsSeenAndNoDiskGrows) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 4 * MiB).error, 0);
  ASSERT_EQ(::fsync(disk.get()), 0);
  const uint64_t taken = static_cast<uint64_t>(state_of(scratch_->view() / "ballast").size);
  ASSERT_EQ(errno_of(::fallocate(ballast_.get(), 0, static_cast<off_t>(taken),
                                 static_cast<off_t>(home().host_free() - reserve() / 2))),
            0);
  home().sync_backing();
  EXPECT_EQ(write_range(disk.get(), 8 * MiB, 4 * MiB).error, ENOSPC);
  EXPECT_TRUE(eventually([&] { return home().state("vm") == "host_full"; })) << home().state("vm");
  // What it has, it may still overwrite.
  EXPECT_EQ(write_range(disk.get(), 0, 4 * MiB).error, 0);
  // Limits can be changed, and files freed, while the host is short.
  home().set_limit("vm", "limit 1GiB\n");
  EXPECT_EQ(errno_of(::ftruncate(disk.get(), 0)), 0);
}

TEST_P(HostReserveTest, HostFiguresAddUp) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(10 * GiB)), 0);
  home().set_limit("vm", "limit 4GiB\n");
  EXPECT_EQ(home().figure("_host", "reserve"), reserve());
  EXPECT_GE(home().figure("_host", "free"), reserve());
  EXPECT_TRUE(eventually([&] {
    uint64_t used = 0;
    for (const std::string& account : home().accounts()) used += home().used(account);
    return home().figure("_host", "used") == used;
  }));
  // The 10 GiB disk may grow to its limit of 4 GiB, which is not there.
  EXPECT_GE(home().figure("_host", "worst_case") + MiB, 4 * GiB);
  EXPECT_GE(home().figure("_host", "overcommit"), 3 * GiB);
}

class LinesTest : public MountTest {
 protected:
  struct statvfs statfs_of(const fs::path& path) {
    struct statvfs st {};
    EXPECT_EQ(::statvfs(path.c_str(), &st), 0);
    return st;
  }
};

TEST_P(LinesTest, StatfsInsideAnAccountTellsItsDiskLineAndWritable) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 64MiB\ncontrol_reserve 4MiB\n");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 20 * MiB).error, 0);
  ASSERT_EQ(::fsync(disk.get()), 0);
  ASSERT_EQ(::mkdir((vm / "sub").c_str(), 0755), 0);
  home().sync_backing();
  ASSERT_TRUE(eventually([&] { return home().figure("vm", "reserved") <= 64 * KiB; }));
  for (const fs::path& path : {vm, vm / "disk", vm / "sub", vm / "lima.yaml"}) {
    struct statvfs st {};
    EXPECT_TRUE(eventually([&] {
      st = statfs_of(path);
      return st.f_bavail == home().figure("vm", "writable") / st.f_frsize;
    })) << path;
    EXPECT_EQ(st.f_blocks * st.f_frsize, 60 * MiB) << path;
    EXPECT_GE(st.f_bfree, st.f_bavail) << path;
    EXPECT_LE(st.f_bavail * st.f_frsize, 40 * MiB) << path;
  }
}

TEST_P(LinesTest, StatfsWithoutALimitTellsWhatTheHostHasAboveItsReserve) {
  const fs::path vm = home().make_vm("vm");
  const struct statvfs st = statfs_of(vm);
  const uint64_t available = st.f_bavail * st.f_frsize;
  EXPECT_LE(available, home().host_free());
  EXPECT_GE(available + 64 * MiB, home().host_free() - GiB);
}

TEST_P(LinesTest, DefaultControlReserveIsOnePercentWithinItsBounds) {
  const fs::path vm = home().make_vm("vm");
  const std::vector<std::pair<uint64_t, uint64_t>> reserves = {
      {64 * MiB, 16 * MiB}, {20 * MiB, 10 * MiB}, {10000 * MiB, 100 * MiB}, {100 * GiB, 256 * MiB}};
  for (const auto& [limit, reserve] : reserves) {
    home().set_limit("vm", fmt::format("limit {}\n", limit));
    EXPECT_EQ(home().figure("vm", "disk_line"), limit - reserve) << limit;
  }
  home().set_limit("vm", "limit 64MiB\ncontrol_reserve 60MiB\n");
  EXPECT_EQ(home().figure("vm", "disk_line"), 32 * MiB) << "never over half the limit";
}

TEST_P(LinesTest, ControlFilesOfAFullVmCanBeWritten) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 48MiB\n");
  fill_up(vm / "disk", block());
  EXPECT_LE(home().du("vm"), 32 * MiB);
  EXPECT_EQ(home().state("vm"), "full");
  for (const char* name : {"basedisk", "diffdisk", "iso", "image", "datadisk", "disk"}) {
    const Fd disk(::open((vm / name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (disk) {
      EXPECT_EQ(write_range(disk.get(), 256 * MiB, 64 * KiB).error, ENOSPC) << name;
    }
  }
  for (const char* name : {"ha.pid", "qemu.pid", "ha.stderr.log", "ssh.config", "disk.log"}) {
    EXPECT_EQ(write_text(vm / name, std::string(64 * KiB, 'x')), 0) << name;
  }
  EXPECT_EQ(errno_of(::mkdir((vm / "sock").c_str(), 0700)), 0);
  fill_up(vm / "ha.stdout.log", block());
  EXPECT_LE(home().du("vm"), 48 * MiB);
  EXPECT_GE(home().du("vm"), 47 * MiB);
}

TEST_P(LinesTest, RenamingAFileToADisksNameMakesItADiskFile) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 48MiB\n");
  fill_up(vm / "iso", block());
  // As Lima does: the downloaded image gets its name at the end.
  const Fd file = create_file(vm / "image.tmp");
  EXPECT_EQ(write_range(file.get(), 0, 64 * KiB).error, 0);
  ASSERT_EQ(errno_of(::rename((vm / "image.tmp").c_str(), (vm / "disk").c_str())), 0);
  EXPECT_EQ(write_range(file.get(), MiB, 64 * KiB).error, ENOSPC);
  EXPECT_EQ(write_range(file.get(), 0, 64 * KiB).error, 0) << "what is written stays writable";
}

TEST_P(LinesTest, SharedFilesHaveALimitToo) {
  ASSERT_EQ(errno_of(::mkdir((mount() / "_config").c_str(), 0755)), 0);
  home().set_limit("_shared", "limit 8MiB\n");
  OvershootWatch watch(home(), "_shared");
  const Fd file = create_file(mount() / "_config" / "large");
  EXPECT_EQ(write_range(file.get(), 0, 64 * MiB).error, ENOSPC);
  const Fd at_root(::open((mount() / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (at_root) {
    EXPECT_EQ(write_range(at_root.get(), 0, 2 * MiB).error, ENOSPC);
  }
  EXPECT_LE(watch.stop(), 8 * MiB);
  EXPECT_GE(home().used("_shared"), 7 * MiB);
}

class EdquotTest : public MountTest {
 protected:
  MountSetup setup() const override { return {.in_place = false, .options = {"edquot"}}; }
};

TEST_P(EdquotTest, WhatIsBeyondTheBudgetIsRefusedWithEdquot) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 8MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  EXPECT_EQ(write_range(disk.get(), 0, 64 * MiB).error, EDQUOT);
  EXPECT_EQ(errno_of(::fallocate(disk.get(), 0, 0, 64 * MiB)), EDQUOT);
  const Fd log = create_file(vm / "log");
  EXPECT_EQ(write_range(log.get(), 0, 64 * MiB).error, EDQUOT);
  EXPECT_LE(home().du("vm"), 8 * MiB);
}

LIMAQUOTA_ON_ALL(EdquotTest);
LIMAQUOTA_ON_ALL(HostReserveTest);
LIMAQUOTA_ON_ALL(LinesTest);

}  // namespace
}  // namespace limaquota::mount_tests
