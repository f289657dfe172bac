// The worker is killed, and another takes over (P11): programs only wait, and figures are as if nothing had
// been.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "tests/mount/harness/harness.hpp"
#include "tests/mount/harness/worker_killer.hpp"

namespace limaquota::mount_tests {
namespace {

using namespace std::chrono_literals;

class TakeoverTest : public MountTest {
 protected:
  void SetUp() override {
    if (!workers_are_replaced()) GTEST_SKIP() << "over io_uring nobody takes over";
    MountTest::SetUp();
    if (home_) home().expect_log(worker_replaced);
  }

  // Kills the worker, and waits for the next one to answer.
  void replace_worker() {
    const pid_t worker = home().worker();
    ASSERT_TRUE(kill_worker(home()));
    EXPECT_TRUE(eventually([&] { return home().worker() != worker; }));
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
  replace_worker();
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
    for (int i = 0; i < 3; ++i) replace_worker();
    EXPECT_GE(home().used("vm"), MiB);
  }
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

TEST_P(TakeoverTest, AFileThatNobodyMayOpenComesToRest) {
  const fs::path vm = home().make_vm("vm");
  {
    const Fd closed(::open((vm / "closed").c_str(), O_RDWR | O_CREAT | O_EXCL, 0));
    ASSERT_EQ(write_scattered(closed.get(), 0, 16 * MiB, 4 * KiB, 32 * KiB).error, 0);
  }
  replace_worker();
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

TEST_P(TakeoverTest, FiguresThatAreReadInPartsAreOfOneMoment) {
  const fs::path vm = home().make_vm("vm");
  // What lima.yaml says is read a moment after it was closed.
  ASSERT_TRUE(eventually([&] { return home().figure("vm", "virtual") > 0; }));
  const Fd usage(::open((mount() / ".usage" / "vm").c_str(), O_RDONLY));
  std::array<char, 4096> buffer{};
  std::string text(buffer.data(), static_cast<size_t>(::read(usage.get(), buffer.data(), 20)));
  ASSERT_EQ(text.size(), 20U);
  const std::string whole = read_text(mount() / ".usage" / "vm");
  // Longer figures than before.
  ASSERT_EQ(write_range(create_file(vm / "disk").get(), 0, 16 * MiB).error, 0);
  for (int round = 0; round < 2; ++round) {
    replace_worker();
    const ssize_t got = ::read(usage.get(), buffer.data(), round == 0 ? 30 : buffer.size());
    ASSERT_GT(got, 0);
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  EXPECT_EQ(text, whole);
  replace_worker();
  EXPECT_EQ(::read(usage.get(), buffer.data(), buffer.size()), 0);
}

TEST_P(TakeoverTest, NamesAreMadeOnceAndNoErrorIsSeen) {
  const fs::path vm = home().make_vm("vm");
  const uint64_t rounds = environment_number("LIMAQUOTA_TAKEOVER_ROUNDS", slow_build() ? 100 : 300);
  WorkerKiller killer(home());
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
  EXPECT_GE(killer.stop(), 5U);
  EXPECT_TRUE(home().comes_to_rest("vm"));
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
  EXPECT_TRUE(home().comes_to_rest("vm"));
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

// Not by a fault of its own: it is neither dead nor does it hang.
class HeldWorkerTest : public TakeoverTest {};

TEST_P(HeldWorkerTest, IsLeftToItsDebugger) {
  const pid_t worker = home().worker();
  std::vector<pid_t> threads;
  for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(worker) + "/task"))
    threads.push_back(std::stoi(task.path().filename()));
  for (const pid_t thread : threads) {
    ASSERT_EQ(errno_of(::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr)), 0);
    ASSERT_EQ(errno_of(::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr)), 0);
  }
  std::this_thread::sleep_for(13s);
  for (const pid_t thread : threads) {
    ASSERT_EQ(::waitpid(thread, nullptr, __WALL), thread);
    EXPECT_EQ(errno_of(::ptrace(PTRACE_DETACH, thread, nullptr, nullptr)), 0);
  }
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 0U);
  EXPECT_EQ(home().worker(), worker);
}

LIMAQUOTA_ON(HeldWorkerTest, "ext4");

// While it lives, what this process starts may have so many descriptors, until it asks for more.
class SoftDescriptorLimit {
 public:
  explicit SoftDescriptorLimit(rlim_t soft) {
    EXPECT_EQ(errno_of(::getrlimit(RLIMIT_NOFILE, &before_)), 0);
    const rlimit limit{soft, before_.rlim_max};
    EXPECT_EQ(errno_of(::setrlimit(RLIMIT_NOFILE, &limit)), 0);
  }
  SoftDescriptorLimit(const SoftDescriptorLimit&) = delete;
  SoftDescriptorLimit& operator=(const SoftDescriptorLimit&) = delete;
  ~SoftDescriptorLimit() { EXPECT_EQ(errno_of(::setrlimit(RLIMIT_NOFILE, &before_)), 0); }
  rlim_t hard() const { return before_.rlim_max; }

 private:
  rlimit before_{};
};

// A VM with more files than the daemon has descriptors at first, or at all.
class ManyFilesTest : public TakeoverTest {
 protected:
  static constexpr rlim_t files = 1500;
  void prepare(const fs::path& home) override {
    fs::create_directory(home / "vm");
    for (rlim_t i = 0; i < files; ++i) ASSERT_EQ(write_text(name(home, i), "text"), 0);
  }
  static fs::path name(const fs::path& home, rlim_t i) { return home / "vm" / ("file" + std::to_string(i)); }
};

// As most systems have it: 1024 descriptors, until a process asks for more.
class SoftLimitTest : public ManyFilesTest {
 protected:
  void SetUp() override {
    const SoftDescriptorLimit usual(1024);
    if (usual.hard() < 2 * files) GTEST_SKIP() << "the hard limit is " << usual.hard();
    TakeoverTest::SetUp();
  }
};

TEST_P(SoftLimitTest, MoreDescriptorsThanThatAreTakenOver) {
  std::vector<Fd> open;
  for (rlim_t i = 0; i < files; ++i) {
    open.emplace_back(::open(name(mount(), i).c_str(), O_RDONLY));
    ASSERT_TRUE(open.back()) << i << ": " << std::strerror(errno);
  }
  for (int round = 0; round < 2; ++round) {
    replace_worker();
    char byte = 0;
    for (rlim_t i = 0; i < files; ++i)
      ASSERT_EQ(::pread(open[i].get(), &byte, 1, 0), 1) << i << std::strerror(errno);
    struct stat st {};
    for (rlim_t i = 0; i < files; ++i) ASSERT_EQ(errno_of(::fstat(open[i].get(), &st)), 0) << i;
  }
}

LIMAQUOTA_ON(SoftLimitTest, "ext4");

// Hardly any: the worker has used all that it may when it dies.
class FewDescriptorsTakenOverTest : public ManyFilesTest {
 protected:
  static constexpr rlim_t few = 256;
  void SetUp() override {
    TakeoverTest::SetUp();
    if (!home_) return;
    const rlimit hard{few, few};
    ASSERT_EQ(errno_of(::prlimit(home().daemon(), RLIMIT_NOFILE, &hard, nullptr)), 0);
    replace_worker();
  }
};

TEST_P(FewDescriptorsTakenOverTest, WhatIsOpenGoesOn) {
  if (sanitized_by("asan")) GTEST_SKIP() << "the undefined-behaviour sanitizer needs descriptors of its own";
  std::vector<Fd> open;
  int error = 0;
  for (rlim_t i = 0; error == 0 && i < few; ++i) {
    Fd fd(::open(name(mount(), i).c_str(), O_RDONLY));
    error = fd ? 0 : errno;
    if (fd) open.push_back(std::move(fd));
  }
  EXPECT_EQ(error, EMFILE);
  replace_worker();
  char byte = 0;
  for (const Fd& fd : open) ASSERT_EQ(::pread(fd.get(), &byte, 1, 0), 1) << std::strerror(errno);
  open.clear();
  // The kernel lets go of them a moment later.
  EXPECT_TRUE(eventually([&] {
    std::error_code none;
    fs::remove_all(mount() / "vm", none);
    return !none;
  }));
}

LIMAQUOTA_ON(FewDescriptorsTakenOverTest, "ext4");

// Whoever starts the daemon may have many descriptors open, and hand them on.
class ManyInheritedTest : public TakeoverTest {
 protected:
  void SetUp() override {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2000) GTEST_SKIP() << "the limit is " << limit.rlim_cur;
    std::vector<Fd> many;
    for (int i = 0; i < 1200; ++i) {
      many.emplace_back(::open("/dev/null", O_RDONLY));  // without O_CLOEXEC
      ASSERT_TRUE(many.back()) << i;
    }
    TakeoverTest::SetUp();
  }
};

TEST_P(ManyInheritedTest, TheDaemonsOwnStayOpen) {
  const Fd file = create_file(mount() / "file");
  for (int round = 0; round < 2; ++round) replace_worker();
  EXPECT_EQ(write_range(file.get(), 0, MiB).error, 0);
}

LIMAQUOTA_ON(ManyInheritedTest, "ext4");

// Some that start others do not care for their children's end, and hand that on.
class IgnoredChildrenTest : public TakeoverTest {
 protected:
  void SetUp() override {
    struct sigaction ignore {};
    struct sigaction before {};
    ignore.sa_handler = SIG_IGN;
    ASSERT_EQ(::sigaction(SIGCHLD, &ignore, &before), 0);
    TakeoverTest::SetUp();
    ASSERT_EQ(::sigaction(SIGCHLD, &before, nullptr), 0);
  }
};

TEST_P(IgnoredChildrenTest, ADeathIsNoticed) {
  replace_worker();
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 1U);
}

LIMAQUOTA_ON(IgnoredChildrenTest, "ext4");

// A worker that dies while the mount begins, or ends.
class BeginningTest : public TakeoverTest {
 protected:
  struct Process {
    pid_t id = 0;
    std::string name;
    pid_t parent = 0;
    pid_t session = 0;
  };
  // Those of the daemon in the background.
  std::vector<Process> processes() {
    std::vector<Process> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::string words;
      std::getline(std::ifstream(entry.path() / "cmdline"), words);
      if (words.find(mount().string()) == std::string::npos) continue;
      std::string state;
      Process one;
      pid_t group = 0;
      std::ifstream(entry.path() / "stat") >> one.id >> one.name >> state >> one.parent >> group >>
          one.session;
      if (one.name.starts_with("(limaquota")) found.push_back(one);
    }
    return found;
  }
  // Its parent leads the session; 0 where there is none.
  pid_t worker_in_background() {
    for (const Process& one : processes()) {
      if (one.name == "(limaquota)" && one.parent == one.session) return one.id;
    }
    return 0;
  }
  std::string mount_in_background() {
    return within_patience(quoted(limaquota_binary()) + " mount " + quoted(scratch_->path() / "home") + " " +
                           quoted(mount()));
  }
  bool unmounts() {
    const std::string unmount = as_root() ? "umount " : "fusermount3 -u ";
    return eventually([&] { return run(unmount + quoted(mount())).status == 0; });
  }
};

TEST_P(BeginningTest, ADeathWhileItEndsLeavesNothing) {
  ASSERT_EQ(home().unmount(), 0);
  std::minstd_rand random(static_cast<unsigned>(environment_number("LIMAQUOTA_SEED", 1)));
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(run(mount_in_background()).status, 0) << i;
    const pid_t worker = worker_in_background();
    ASSERT_GT(worker, 0) << i;
    std::thread unmounting([&] { EXPECT_TRUE(unmounts()) << i; });
    ::usleep(static_cast<useconds_t>(random() % 15'000));
    (void)::kill(worker, SIGKILL);
    unmounting.join();
    ASSERT_TRUE(eventually([&] { return processes().empty(); })) << i;
  }
}

TEST_P(BeginningTest, EndsWithAMountOrWithNone) {
  ASSERT_EQ(home().unmount(), 0);
  const std::string command = mount_in_background();
  std::minstd_rand random(static_cast<unsigned>(environment_number("LIMAQUOTA_SEED", 1)));
  // How long it takes on this machine, as it is loaded: workers are killed at any moment of that.
  const auto began = std::chrono::steady_clock::now();
  ASSERT_EQ(run(command).status, 0);
  const std::chrono::microseconds whole =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
  ASSERT_TRUE(unmounts());
  for (int i = 0; i < 30; ++i) {
    CommandResult result;
    std::thread mounting([&] { result = run(command); });
    std::this_thread::sleep_for(whole * (random() % 100) / 100);
    if (const pid_t worker = worker_in_background(); worker > 0) (void)::kill(worker, SIGKILL);
    mounting.join();
    ASSERT_NE(result.status, 124) << i << ": the command waits for ever";
    const std::string host = run("cat " + quoted(mount() / ".usage" / "_host")).output;
    if (result.status == 0) {
      EXPECT_NE(host.find("worker_restarts"), std::string::npos) << i << ": " << host;
      EXPECT_TRUE(unmounts()) << i;
    } else {
      EXPECT_FALSE(result.output.empty()) << i;
      EXPECT_TRUE(eventually([&] { return !home().is_mounted(); })) << i << ": " << result.output;
    }
  }
  EXPECT_TRUE(eventually([&] { return processes().empty(); }));
}

LIMAQUOTA_ON(BeginningTest, "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
