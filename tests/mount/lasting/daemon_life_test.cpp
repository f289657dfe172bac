// How a mount begins and ends: in place, in the background, by signals, and while the backing is stuck.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <future>
#include <sstream>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class InPlaceTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override {
    fs::create_directory(home / "vm");
    ASSERT_EQ(write_text(home / "vm" / "lima.yaml", "disk: 1GiB\n"), 0);
    const Fd disk = create_file(home / "vm" / "disk");
    ASSERT_EQ(write_range(disk.get(), 0, 5 * MiB).error, 0);
  }
  MountSetup setup() const override { return {.in_place = true, .options = {}}; }
};

TEST_P(InPlaceTest, WhatWasThereIsSeenAndCounted) {
  const Fd disk = open_file(mount() / "vm" / "disk", O_RDWR);
  EXPECT_TRUE(has_pattern(disk.get(), 0, 5 * MiB));
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_GE(home().used("vm"), 5 * MiB);
  EXPECT_EQ(home().figure("vm", "virtual"), 5 * MiB);
}

TEST_P(InPlaceTest, TheLimitHoldsAndWritesLandUnderneath) {
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = open_file(mount() / "vm" / "disk", O_RDWR);
  const Written written = write_range(disk.get(), 5 * MiB, 20 * MiB);
  EXPECT_EQ(written.error, ENOSPC);
  const Fd underneath = open_file(home().backing() / "vm" / "disk", O_RDONLY);
  EXPECT_TRUE(has_pattern(underneath.get(), 5 * MiB, written.bytes));
  EXPECT_LE(home().du("vm"), 16 * MiB);
}

TEST_P(InPlaceTest, AfterUnmountingTheDirectoryIsAsItWas) {
  ASSERT_EQ(write_text(mount() / "vm" / "new", "text"), 0);
  ASSERT_EQ(home().unmount(), 0);
  EXPECT_EQ(read_text(mount() / "vm" / "new"), "text");
  EXPECT_FALSE(fs::exists(mount() / ".usage"));
}

TEST_P(InPlaceTest, CoversAgainAfterUnmounting) {
  home().set_limit("vm", "64MiB");
  home().remount();
  EXPECT_EQ(home().figure("vm", "limit"), 64 * MiB);
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

LIMAQUOTA_ON_ALL(InPlaceTest);

class DaemonLifeTest : public MountTest {};

TEST_P(DaemonLifeTest, SigtermAndSigintEndTheMountCleanly) {
  for (const int signal : {SIGTERM, SIGINT}) {
    EXPECT_EQ(write_text(mount() / "file", "text"), 0);
    EXPECT_EQ(home().end_with_signal(signal), 0);
    EXPECT_FALSE(home().is_mounted());
    EXPECT_EQ(read_text(home().backing() / "file"), "text");
    home().remount();
  }
}

TEST_P(DaemonLifeTest, UnmountingEndsTheDaemonAndKeepsWhatWasWritten) {
  {
    const Fd file = create_file(mount() / "file");
    ASSERT_EQ(write_range(file.get(), 0, 3 * MiB).error, 0);
  }
  EXPECT_EQ(home().unmount(), 0);
  const Fd file = open_file(home().backing() / "file", O_RDONLY);
  EXPECT_TRUE(has_pattern(file.get(), 0, 3 * MiB));
}

TEST_P(DaemonLifeTest, AMountThatIsInUseIsNotUnmounted) {
  const Fd file = create_file(mount() / "file");
  const std::string command = as_root() ? "umount " : "fusermount3 -u ";
  EXPECT_NE(run(command + quoted(mount())).status, 0);
  EXPECT_EQ(write_range(file.get(), 0, 4096).error, 0);
}

LIMAQUOTA_ON(DaemonLifeTest, "ext4", "btrfs");

class ReadOnlyTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override { ASSERT_EQ(write_text(home / "file", "text"), 0); }
  MountSetup setup() const override { return {.in_place = false, .options = {"ro"}}; }
};

TEST_P(ReadOnlyTest, NothingCanBeChangedAndEverythingRead) {
  EXPECT_EQ(read_text(mount() / "file"), "text");
  EXPECT_EQ(write_text(mount() / "file", "x", 0), EROFS);
  EXPECT_EQ(errno_of(::unlink((mount() / "file").c_str())), EROFS);
  EXPECT_EQ(errno_of(::mkdir((mount() / "new").c_str(), 0755)), EROFS);
  EXPECT_EQ(home().usage("_shared")["state"], "ok");
}

LIMAQUOTA_ON(ReadOnlyTest, "ext4");

// The flags that mount(8) knows reach the kernel.
class MountFlagsTest : public MountTest {
 protected:
  MountSetup setup() const override { return {.in_place = false, .options = {"noexec", "nodev,nosuid"}}; }
};

TEST_P(MountFlagsTest, AreSeenInTheTableOfMounts) {
  const std::string options = run("findmnt -n -o OPTIONS " + quoted(mount())).output;
  for (const char* flag : {"noexec", "nodev", "nosuid"})
    EXPECT_NE(options.find(flag), std::string::npos) << options;
}

LIMAQUOTA_ON(MountFlagsTest, "ext4");

// Without -f the command returns when the mount answers.
class BackgroundTest : public MountTest {
 protected:
  // The process that serves the mount: the one whose command line names it.
  pid_t server() {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline");
      std::ostringstream text;
      text << file.rdbuf();
      const std::string words = text.str();
      if (words.find("limaquota") != std::string::npos && words.find(mount().string()) != std::string::npos)
        return std::atoi(entry.path().filename().c_str());
    }
    return 0;
  }
};

TEST_P(BackgroundTest, TheCommandReturnsWhenTheMountAnswers) {
  ASSERT_EQ(home().unmount(), 0);
  const std::string home_directory = quoted(scratch_->path() / "home");
  const CommandResult result =
      run(quoted(limaquota_binary()) + " mount " + home_directory + " " + quoted(mount()));
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(result.output, "");
  EXPECT_EQ(home().usage("_shared")["limit"], "max");
  EXPECT_NE(server(), 0);
  EXPECT_EQ(write_text(mount() / "file", "text"), 0);
  const CommandResult unmounted = run(quoted(limaquota_binary()) + " umount " + quoted(mount()));
  EXPECT_EQ(unmounted.status, 0) << unmounted.output;
  EXPECT_FALSE(home().is_mounted());
  EXPECT_TRUE(eventually([&] { return server() == 0; }));
}

LIMAQUOTA_ON(BackgroundTest, "ext4");

// A backing filesystem that is frozen: every write to it waits.
class Frozen {
 public:
  explicit Frozen(const fs::path& path) : fd_(open_file(path, O_RDONLY | O_DIRECTORY)) {
    frozen_ = ::ioctl(fd_.get(), FIFREEZE, 0) == 0;
  }
  ~Frozen() { thaw(); }
  void thaw() {
    if (frozen_ && ::ioctl(fd_.get(), FITHAW, 0) != 0) ADD_FAILURE() << "cannot thaw";
    frozen_ = false;
  }
  explicit operator bool() const { return frozen_; }

 private:
  Fd fd_;
  bool frozen_;
};

class StuckBackingTest : public MountTest {
 protected:
  // How many of the worker's threads sleep in the kernel where no signal wakes them: they wait for the disk.
  size_t stuck_threads() {
    size_t count = 0;
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(home().worker()) + "/task")) {
      std::string stat;
      std::getline(std::ifstream(task.path() / "stat"), stat);
      const size_t name_end = stat.rfind(')');
      if (name_end != std::string::npos && stat.compare(name_end, 3, ") D") == 0) ++count;
    }
    return count;
  }
};

// Nothing that is asked here waits for the disk: it is answered while no call to the disk returns.
TEST_P(StuckBackingTest, UsageAndAnotherVmAnswerWhileAVmsWritesAreStuck) {
  if (!as_root()) GTEST_SKIP() << "only root can freeze a filesystem";
  const fs::path stuck = home().make_vm("stuck");
  const fs::path other = home().make_vm("other");
  home().set_limit("other", "64MiB");
  constexpr int writer_count = 24;
  // Made beforehand: the kernel lets only one at a time make a name in a directory.
  std::vector<Fd> files;
  files.reserve(writer_count);
  for (int i = 0; i < writer_count; ++i) files.push_back(create_file(stuck / ("disk" + std::to_string(i))));
  Frozen frozen(home().backing());
  ASSERT_TRUE(frozen);
  std::vector<std::thread> writers;
  writers.reserve(writer_count);
  std::atomic<int> through = 0;
  for (const Fd& file : files)
    writers.emplace_back([&] {
      EXPECT_EQ(write_range(file.get(), 0, 1 * MiB).error, 0);
      EXPECT_EQ(errno_of(::fsync(file.get())), 0);
      ++through;
    });
  // As many as an account may have inside the backing filesystem; the others queue.
  EXPECT_TRUE(eventually([&] { return stuck_threads() >= 8; })) << stuck_threads();
  auto answers = std::async(std::launch::async, [&] {
    for (int i = 0; i < 100; ++i) EXPECT_EQ(home().usage(i % 2 == 0 ? "other" : "stuck").count("used"), 1U);
    EXPECT_EQ(read_text(other / "lima.yaml"), "disk: 10GiB\n");
  });
  EXPECT_EQ(answers.wait_for(patience), std::future_status::ready) << "an answer waits for the disk";
  EXPECT_EQ(through, 0) << "the writers were not stuck";
  frozen.thaw();
  answers.wait();
  for (std::thread& writer : writers) writer.join();
}

LIMAQUOTA_ON(StuckBackingTest, "ext4", "xfs", "btrfs");

}  // namespace
}  // namespace limaquota::mount_tests
