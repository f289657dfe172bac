// What a host does to the daemon: few descriptors, a backing filesystem that becomes read-only, a stop by
// SIGSTOP as suspending does it. Nobody but the one who asked too much sees an error, and the figures stay
// right.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <thread>

#include "tests/mount/harness/own_filesystem.hpp"

namespace limaquota::mount_tests {
namespace {

// The daemon raises its limit to what it may have, so what it may have is lowered.
class FewDescriptorsTest : public MountTest {
 protected:
  static constexpr rlim_t few = 256;
  static constexpr int files = 2000;

  void prepare(const fs::path& home) override {
    fs::create_directory(home / "vm");
    for (int i = 0; i < files; ++i) ASSERT_EQ(write_text(name(home, i), "text"), 0);
  }
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    const rlimit limit{few, few};
    ASSERT_EQ(errno_of(::prlimit(home().worker(), RLIMIT_NOFILE, &limit, nullptr)), 0);
  }
  static fs::path name(const fs::path& home, int i) { return home / "vm" / fmt::format("file{}", i); }
};

TEST_P(FewDescriptorsTest, AWalkThroughManyMoreFilesSucceeds) {
  for (int i = 0; i < files; ++i) ASSERT_EQ(read_text(name(mount(), i)), "text") << i;
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

TEST_P(FewDescriptorsTest, TooManyOpenFilesAreRefusedToTheirOpenerAlone) {
  // It opens a pipe to see whether an object may be looked at, and without a descriptor left takes a good one
  // for bad.
  if (sanitized_by("asan")) GTEST_SKIP() << "the undefined-behaviour sanitizer needs descriptors of its own";
  home().expect_log("cannot have another thread: io_uring refuses another entry");  // it needs a descriptor
  const Fd disk = create_file(mount() / "vm" / "disk");
  std::vector<Fd> open;
  int error = 0;
  while (error == 0 && open.size() < few) {
    Fd fd(::open(name(mount(), static_cast<int>(open.size())).c_str(), O_RDONLY));
    error = fd ? 0 : errno;
    if (fd) open.push_back(std::move(fd));
  }
  EXPECT_EQ(error, EMFILE);
  EXPECT_GT(open.size(), few / 4);
  // What is open goes on, and so do figures and limits.
  EXPECT_EQ(write_range(disk.get(), 0, 1 * MiB).error, 0);
  EXPECT_TRUE(has_pattern(disk.get(), 0, 1 * MiB));
  EXPECT_EQ(home().figure("vm", "refused_writes"), 0U);
  open.clear();
  EXPECT_TRUE(eventually([&] { return ::access(name(mount(), files - 1).c_str(), R_OK) == 0; }));
  EXPECT_EQ(read_text(name(mount(), files - 1)), "text");
}

LIMAQUOTA_ON(FewDescriptorsTest, "tmpfs", "ext4");

class ReadOnlyBackingTest : public OwnFilesystemTest {
 protected:
  std::string own_filesystem() override { return on_loop("mkfs.ext4 -q -F"); }
  void remount_backing(const std::string& mode) {
    // What was written last may still be open for being written back.
    EXPECT_TRUE(eventually([&] {
      return run("mount -o remount," + mode + " " + quoted(scratch_->path() / "home")).status == 0;
    })) << mode;
  }
};

TEST_P(ReadOnlyBackingTest, WritersAreToldAndFiguresStayUntilItIsWritableAgain) {
  const fs::path vm = home().make_vm("vm");
  ASSERT_EQ(write_range(create_file(vm / "disk").get(), 0, 1 * MiB).error, 0);
  home().set_limit("vm", "64MiB");
  remount_backing("ro");
  EXPECT_EQ(errno_of(::open((vm / "disk").c_str(), O_RDWR)), EROFS);
  EXPECT_EQ(errno_of(::open((vm / "new").c_str(), O_RDWR | O_CREAT, 0644)), EROFS);
  EXPECT_EQ(errno_of(::unlink((vm / "disk").c_str())), EROFS);
  EXPECT_NE(home().try_set_limit("vm", "32MiB"), 0);
  EXPECT_EQ(home().figure("vm", "limit"), 64 * MiB);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  const Fd disk = open_file(vm / "disk", O_RDONLY);
  EXPECT_TRUE(has_pattern(disk.get(), 0, 1 * MiB));
  remount_backing("rw");
  const Fd again = open_file(vm / "disk", O_RDWR);
  EXPECT_EQ(write_range(again.get(), 1 * MiB, 1 * MiB).error, 0);
  home().set_limit("vm", "32MiB");
  EXPECT_EQ(home().figure("vm", "limit"), 32 * MiB);
}

LIMAQUOTA_ON(ReadOnlyBackingTest, "ext4");

class StoppedDaemonTest : public MountTest {};

TEST_P(StoppedDaemonTest, WritersWaitAndFiguresAreSaneAfterwards) {
  using namespace std::chrono_literals;
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "64MiB");
  const Fd disk = create_file(vm / "disk");
  std::thread writer([&] {
    for (int i = 0; i < 40; ++i) {
      EXPECT_EQ(write_range(disk.get(), i * 128 * KiB, 128 * KiB).error, 0);
      std::this_thread::sleep_for(20ms);
    }
  });
  std::this_thread::sleep_for(200ms);
  ASSERT_EQ(errno_of(::kill(home().worker(), SIGSTOP)), 0);
  std::this_thread::sleep_for(2s);
  ASSERT_EQ(errno_of(::kill(home().worker(), SIGCONT)), 0);
  writer.join();
  EXPECT_TRUE(has_pattern(disk.get(), 0, 5 * MiB));
  EXPECT_TRUE(home().comes_to_rest("vm"));
  // All that was written, in a second: more than that is no rate.
  const double growth = std::stod(home().usage("vm")["growth_per_second"]);
  EXPECT_GE(growth, 0);
  EXPECT_LE(growth, static_cast<double>(home().used("vm")));
}

LIMAQUOTA_ON(StoppedDaemonTest, "tmpfs", "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
