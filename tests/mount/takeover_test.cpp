// The worker is killed, and another takes over: programs only wait, and figures are as if nothing had been.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "tests/mount/harness.hpp"
#include "tests/mount/worker_killer.hpp"

namespace limaquota::mount_tests {
namespace {

using namespace std::chrono_literals;

class TakeoverTest : public MountTest {
 protected:
  void SetUp() override {
    if (const char* options = std::getenv("LIMAQUOTA_MOUNT_OPTIONS"); options != nullptr)
      GTEST_SKIP() << "over io_uring nobody takes over";
    MountTest::SetUp();
    home().expect_log("the worker was ended by signal 9: another one takes over");
  }

  // Kills the worker, and waits for the next one to answer.
  void kill_worker() {
    const pid_t worker = home().worker();
    ASSERT_GT(worker, 0);
    ASSERT_EQ(errno_of(::kill(worker, SIGKILL)), 0);
    EXPECT_TRUE(eventually([&] { return home().worker() != worker; }, 30));
    (void)home().usage("_host");
  }
};

TEST_P(TakeoverTest, OpenFilesGoOn) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, MiB).error, 0);
  const Fd unlinked = create_file(vm / "unlinked");
  ASSERT_EQ(write_range(unlinked.get(), 0, MiB).error, 0);
  ASSERT_EQ(errno_of(::unlink((vm / "unlinked").c_str())), 0);
  ASSERT_EQ(errno_of(::flock(disk.get(), LOCK_EX)), 0);
  const Fd listing(::open(vm.c_str(), O_RDONLY | O_DIRECTORY));
  const uint64_t used = home().used("vm");
  kill_worker();
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 1U);
  EXPECT_EQ(home().figure("_host", "worker_pid"), static_cast<uint64_t>(home().worker()));
  EXPECT_EQ(home().figure("_host", "supervisor_pid"), static_cast<uint64_t>(home().daemon()));
  EXPECT_EQ(home().used("vm"), used);
  EXPECT_TRUE(has_pattern(disk.get(), 0, MiB));
  EXPECT_TRUE(has_pattern(unlinked.get(), 0, MiB));
  EXPECT_EQ(write_range(disk.get(), MiB, MiB).error, 0);
  EXPECT_EQ(write_range(unlinked.get(), MiB, MiB).error, 0);
  EXPECT_EQ(errno_of(::fsync(disk.get())), 0);
  EXPECT_EQ(errno_of(::fstatat(listing.get(), "disk", std::array<struct stat, 1>().data(), 0)), 0);
  const Fd second(::open((vm / "disk").c_str(), O_RDWR));
  EXPECT_EQ(::flock(second.get(), LOCK_EX | LOCK_NB), -1);
  // The limit holds, for the open and for the unlinked one.
  EXPECT_EQ(write_range(disk.get(), 2 * MiB, 32 * MiB).error, ENOSPC);
  EXPECT_LE(home().used("vm"), 16 * MiB);
  EXPECT_GE(home().used("vm"), home().du("vm") + 2 * MiB);
}

TEST_P(TakeoverTest, WhatIsClosedAfterwardsComesBack) {
  const fs::path vm = home().make_vm("vm");
  {
    const Fd unlinked = create_file(vm / "unlinked");
    ASSERT_EQ(write_range(unlinked.get(), 0, MiB).error, 0);
    ASSERT_EQ(errno_of(::unlink((vm / "unlinked").c_str())), 0);
    for (int i = 0; i < 3; ++i) kill_worker();
    EXPECT_GE(home().used("vm"), MiB);
  }
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

TEST_P(TakeoverTest, NamesAreMadeOnceAndNoErrorIsSeen) {
  const fs::path vm = home().make_vm("vm");
  const uint64_t rounds = environment_number("LIMAQUOTA_TAKEOVER_ROUNDS", slow_build() ? 100 : 300);
  WorkerKiller killer(home());
  {
    for (uint64_t i = 0; !killer.enough(i, rounds) && !HasFailure(); ++i) {
      const fs::path a = vm / ("a" + std::to_string(i));
      const fs::path b = vm / ("b" + std::to_string(i));
      const fs::path c = vm / ("c" + std::to_string(i));
      const fs::path d = vm / ("d" + std::to_string(i));
      const Fd fd(::open(a.c_str(), O_RDWR | O_CREAT | O_EXCL, 0400));
      ASSERT_TRUE(fd) << i << ": " << std::strerror(errno);
      ASSERT_EQ(write_range(fd.get(), 0, 8 * KiB).error, 0) << i;
      ASSERT_EQ(errno_of(::link(a.c_str(), b.c_str())), 0) << i;
      ASSERT_EQ(errno_of(::mkdir(c.c_str(), 0755)), 0) << i;
      ASSERT_EQ(errno_of(::symlink("a", d.c_str())), 0) << i;
      ASSERT_EQ(errno_of(::renameat2(AT_FDCWD, c.c_str(), AT_FDCWD, d.c_str(), RENAME_EXCHANGE)), 0) << i;
      struct stat st {};
      ASSERT_EQ(errno_of(::lstat(c.c_str(), &st)), 0) << i;
      ASSERT_TRUE(S_ISLNK(st.st_mode)) << i << ": exchanged twice";
      ASSERT_EQ(errno_of(::rename(a.c_str(), (c.string() + "x").c_str())), 0) << i;
      ASSERT_EQ(errno_of(::unlink(b.c_str())), 0) << i;
      ASSERT_EQ(errno_of(::unlink(c.c_str())), 0) << i;
      ASSERT_EQ(errno_of(::rmdir(d.c_str())), 0) << i;
      ASSERT_TRUE(has_pattern(fd.get(), 0, 8 * KiB)) << i;
      ASSERT_EQ(errno_of(::unlink((c.string() + "x").c_str())), 0) << i;
    }
  }
  EXPECT_GE(killer.stop(), 5U);
  EXPECT_TRUE(home().comes_to_rest("vm", 30));
}

TEST_P(TakeoverTest, NoWriteSlipsThroughAtTheLimit) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 24MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done) {
      EXPECT_LE(home().du("vm"), 24 * MiB);
      std::this_thread::sleep_for(1ms);
    }
  });
  WorkerKiller killer(home());
  [&] {
    std::minstd_rand random(7);
    for (uint64_t i = 0; !killer.enough(i, slow_build() ? 400 : 4000); ++i) {
      const uint64_t block = random() % (64 * MiB / (16 * KiB));
      const int error = write_range(disk.get(), block * 16 * KiB, 16 * KiB).error;
      ASSERT_TRUE(error == 0 || error == ENOSPC) << std::strerror(error);
      if (error == 0) continue;
      ASSERT_EQ(errno_of(::fallocate(disk.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     static_cast<off_t>(block * 16 * KiB), 8 * MiB)),
                0);
    }
  }();
  done = true;
  watcher.join();
  EXPECT_GE(killer.stop(), 5U);
  EXPECT_TRUE(home().comes_to_rest("vm", 30));
}

TEST_P(TakeoverTest, LimitsAreSetWhateverHappens) {
  home().make_vm("vm");
  WorkerKiller killer(home(), 150);  // a limit is synchronized to the disk
  for (uint64_t i = 1; !killer.enough(i, slow_build() ? 20 : 100); ++i) {
    const uint64_t limit = (10 + i % 90) * MiB;
    ASSERT_EQ(home().try_set_limit("vm", "limit " + std::to_string(limit) + "\n"), 0) << i;
    ASSERT_EQ(home().figure("vm", "limit"), limit) << i;
  }
  EXPECT_GE(killer.stop(), 5U);
}

LIMAQUOTA_ON_ALL(TakeoverTest);

class HangingWorkerTest : public TakeoverTest {
 protected:
  // Holds every thread of the worker, as a deadlock would, without stopping it as a suspended session does.
  void hold_worker() {
    const pid_t worker = home().worker();
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(worker) + "/task")) {
      const pid_t thread = std::stoi(task.path().filename());
      ASSERT_EQ(::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr), 0) << std::strerror(errno);
      ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr), 0) << std::strerror(errno);
    }
  }
};

TEST_P(HangingWorkerTest, IsReplaced) {
  home().expect_log("the worker has not answered for 10 s: it is ended, for another one to take over");
  const fs::path vm = home().make_vm("vm");
  const Fd disk = create_file(vm / "disk");
  const pid_t worker = home().worker();
  hold_worker();
  std::thread writer([&] { EXPECT_EQ(write_range(disk.get(), 0, MiB).error, 0); });
  EXPECT_TRUE(eventually(
      [&] {
        // It is this process's to wait for as well, before its parent hears of its end.
        while (::waitpid(-1, nullptr, __WALL | WNOHANG) > 0) {
        }
        return home().worker() != worker;
      },
      60));
  writer.join();
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 1U);
}

LIMAQUOTA_ON(HangingWorkerTest, "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
