// The worker dies at a system call, just before or just after it was carried out: programs must see what they
// would have seen on the backing filesystem itself, and figures and limits must be right.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "tests/faults/fault_fixture.hpp"
#include "tests/mount/harness/worker_killer.hpp"

namespace limaquota::fault_tests {
namespace {

using namespace mount_tests;

// One operation, to be done below the mount and below a directory that nothing is mounted over.
struct Operation {
  unsigned kind = 0;
  std::string a, b;
  mode_t mode = 0;
  int flags = 0;
  std::string value;

  std::string text() const {
    static const char* const kinds[] = {"create", "mkdir",    "symlink",  "link",       "unlink",
                                        "rmdir",  "rename",   "exchange", "noreplace",  "setxattr",
                                        "mknod",  "truncate", "open",     "removexattr"};
    return std::string(kinds[kind]) + " " + a + " " + b + ", mode " + std::to_string(mode) + ", flags " +
           std::to_string(flags);
  }

  // 0 or an errno.
  int run(const fs::path& root) const {
    const fs::path at = root / a;
    const fs::path to = root / b;
    const char* from = at.c_str();
    switch (kind) {
      case 0: {
        const Fd fd(::open(from, O_WRONLY | O_CREAT | flags, mode));
        return fd ? write_range(fd.get(), 0, value.size()).error : errno;
      }
      case 1:
        return errno_of(::mkdir(from, 0700 | mode));
      case 2:
        return errno_of(::symlink(value.substr(0, 100).c_str(), from));
      case 3:
        return errno_of(::link(from, to.c_str()));
      case 4:
        return errno_of(::unlink(from));
      case 5:
        return errno_of(::rmdir(from));
      case 6:
        return errno_of(::rename(from, to.c_str()));
      case 7:
        return errno_of(::renameat2(AT_FDCWD, from, AT_FDCWD, to.c_str(), RENAME_EXCHANGE));
      case 8:
        return errno_of(::renameat2(AT_FDCWD, from, AT_FDCWD, to.c_str(), RENAME_NOREPLACE));
      case 9:
        return errno_of(::lsetxattr(from, "user.v", value.data(), value.size(), flags));
      case 10:
        return errno_of(::mknod(from, S_IFREG | mode, 0));
      case 11:
        return errno_of(::truncate(from, static_cast<off_t>(value.size())));
      case 12:
        return Fd(::open(from, O_RDONLY | flags)) ? 0 : errno;
      default:
        return errno_of(::lremovexattr(from, "user.v"));
    }
  }
};

class Operations {
 public:
  explicit Operations(uint64_t seed) : random_(seed) {}

  Operation next() {
    static constexpr std::array<unsigned, 20> kinds{0, 0, 0, 0, 1, 1, 2, 3, 3,  4,
                                                    4, 5, 6, 6, 7, 8, 9, 9, 10, 13};
    static constexpr std::array<mode_t, 5> modes{0644, 0444, 0400, 0200, 0};
    Operation one;
    one.kind = kinds[below(kinds.size())];
    one.a = name();
    one.b = name();
    one.mode = modes[below(modes.size())];
    one.value = std::string(1 + below(3000), 'v');
    if (one.kind == 0) one.flags = below(3) > 0 ? O_EXCL : O_TRUNC;
    if (one.kind == 9) one.flags = static_cast<int>(below(3));  // 0, XATTR_CREATE, XATTR_REPLACE
    return one;
  }

  static void look_at_all_names(const fs::path& root) {
    struct stat st {};
    for (const char* directory : {"", "d0/", "d1/"})
      for (const char* kind : {"f", "d"})
        for (unsigned i = 0; i < names; ++i)
          (void)::lstat((root / (directory + (kind + std::to_string(i)))).c_str(), &st);
  }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }
  std::string name() {
    std::string text = below(2) == 0 ? "" : "d" + std::to_string(below(2)) + "/";
    return text + (below(4) == 0 ? "d" : "f") + std::to_string(below(names));
  }
  static constexpr unsigned names = 5;
  std::mt19937_64 random_;
};

// What there is below a directory, by name.
std::map<std::string, std::string> listing(const fs::path& root) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    struct stat st {};
    if (::lstat(entry.path().c_str(), &st) != 0) continue;
    std::string text = std::to_string(st.st_mode) + " links " + std::to_string(st.st_nlink);
    if (!S_ISDIR(st.st_mode)) text += " size " + std::to_string(st.st_size);
    std::array<char, 4096> value{};
    const ssize_t size = ::lgetxattr(entry.path().c_str(), "user.v", value.data(), value.size());
    text += " attribute " + std::to_string(size);
    all[fs::relative(entry.path(), root)] = text;
  }
  return all;
}

// With a sanitizer a worker needs several times as long to start.
std::vector<FaultCase> on_killed(const std::vector<std::string>& kinds) {
  return slow_build() ? on({"ext4"}, kinds) : on_all(kinds);
}

class KilledAtACall : public FaultTest {
 protected:
  void SetUp() override {
    FaultTest::SetUp();
    if (home_) vm_ = home().make_vm("vm");
  }
  uint64_t restarts() { return home().figure("_host", "worker_restarts"); }
  static uint64_t kills() { return slow_build() ? 5 : most_kills(); }
  fs::path vm_;
};

TEST_P(KilledAtACall, NothingIsSeenOfIt) {
  const fs::path twin = scratch_->path() / "twin";
  fs::create_directory(twin);
  fs::create_directory(vm_ / "twin");
  Operations random(seed());
  faults_on();
  for (uint64_t i = 0; restarts() < kills() && !HasFailure(); ++i) {
    const Operation one = random.next();
    ASSERT_EQ(one.run(vm_ / "twin"), one.run(twin)) << i << ": " << one.text();
    ASSERT_LT(i, 100'000U) << "no worker dies";
  }
  faults_off();
  EXPECT_EQ(listing(vm_ / "twin"), listing(twin));
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

const std::vector<std::string> killed_calls = {"openat_create:kill:3",
                                               "openat_create:late kill:1",
                                               "mkdirat:kill:2",
                                               "mkdirat:late kill:1",
                                               "symlinkat:late kill:1",
                                               "mknodat:late kill:1",
                                               "linkat:kill:2",
                                               "linkat:late kill:1",
                                               "unlinkat:kill:2",
                                               "unlinkat:late kill:1",
                                               "renameat2:kill:2",
                                               "renameat2:late kill:1",
                                               "setxattr:kill:2",
                                               "setxattr:late kill:2",
                                               "removexattr:late kill:1",
                                               "fstat:kill:30",
                                               "openat_path:kill:20",
                                               "openat_path:late kill:20",
                                               "fstatat:kill:10",
                                               "chmod:kill:2\nopenat_create:late kill:1",
                                               "chmod:late kill:2\nopenat_create:late kill:1",
                                               "pwrite:kill:4",
                                               "pwrite:late kill:4"};

INSTANTIATE_TEST_SUITE_P(Fault, KilledAtACall, ::testing::ValuesIn(on_killed(killed_calls)), name_of);

// Between a system call and its booking there is no memory: the figures are in doubt, and the next worker
// counts anew.
class KillOfTheDoubtful : public KilledAtACall {};

TEST_P(KillOfTheDoubtful, FiguresComeRight) {
  fs::create_directory(vm_ / "twin");
  Operations random(seed());
  faults_on();
  for (uint64_t i = 0; i < operations() || injected() == 0; ++i) {
    const int error = random.next().run(vm_ / "twin");
    ASSERT_NE(error, ECONNABORTED) << i;
    ASSERT_LT(i, 100'000U) << "memory never lacks";
  }
  faults_off();
  EXPECT_TRUE(eventually([&] { return restarts() > 0; }));
  // Of a file that was removed, or renamed over, with an error the kernel lets go when it looks at the name
  // again.
  EXPECT_TRUE(eventually([&] {
    Operations::look_at_all_names(vm_ / "twin");
    return home().is_at_rest("vm");
  }));
}

INSTANTIATE_TEST_SUITE_P(Fault, KillOfTheDoubtful,
                         ::testing::ValuesIn(on({"ext4"}, {"pwrite:late memory:3", "mkdirat:late memory:2",
                                                           "unlinkat:late memory:2",
                                                           "renameat2:late memory:2", "fstat:memory:50"})),
                         name_of);

// Only one of two VMs has a limit.
class KilledLimitFollows : public KilledAtACall {
 protected:
  void SetUp() override {
    KilledAtACall::SetUp();
    if (!home_) return;
    home().make_vm("one");
    home().make_vm("two");
    home().set_limit("one", "limit 64MiB\n");
  }
  std::string limit_of(const std::string& vm) { return home().usage(vm)["limit"]; }
};

TEST_P(KilledLimitFollows, ItsVmWhateverIsKilled) {
  const fs::path one = home().mount() / "one";
  const fs::path two = home().mount() / "two";
  const fs::path three = home().mount() / "three";
  faults_on();
  for (uint64_t i = 0; restarts() < kills() && !HasFailure(); ++i) {
    ASSERT_LT(i, 10'000U) << "no worker dies";
    ASSERT_EQ(errno_of(::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), RENAME_EXCHANGE)), 0) << i;
    ASSERT_EQ(limit_of("one"), "max") << i;
    ASSERT_EQ(limit_of("two"), "67108864") << i;
    ASSERT_EQ(errno_of(::rename(two.c_str(), three.c_str())), 0) << i;
    ASSERT_EQ(limit_of("three"), "67108864") << i;
    ASSERT_EQ(errno_of(::rename(three.c_str(), two.c_str())), 0) << i;
    ASSERT_EQ(errno_of(::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, two.c_str(), RENAME_EXCHANGE)), 0) << i;
    ASSERT_EQ(limit_of("one"), "67108864") << i;
    ASSERT_EQ(limit_of("two"), "max") << i;
    std::map<std::string, std::string> files = listing(home().backing() / ".quota");
    ASSERT_EQ(files.size(), 1U) << i;
    ASSERT_TRUE(files.contains("one")) << i;
  }
  faults_off();
}

const std::vector<std::string> calls_of_limits = {
    "fsync:kill:3",     "fsync:late kill:3",     "linkat:kill:2",   "linkat:late kill:2",
    "renameat2:kill:3", "renameat2:late kill:3", "unlinkat:kill:2", "unlinkat:late kill:2"};

INSTANTIATE_TEST_SUITE_P(Fault, KilledLimitFollows, ::testing::ValuesIn(on_killed(calls_of_limits)), name_of);

// What was done once is not refused when it is asked for again, though there is no room for it twice. On
// ext4, where each of these takes a block.
class KilledAtTheLimit : public KilledAtACall {
 protected:
  // 0 or an errno.
  int make(int i) {
    const std::string value(3000, 'v');
    const fs::path at = path(i);
    if (GetParam().rules.starts_with("mkdirat")) return errno_of(::mkdir(at.c_str(), 0755));
    if (GetParam().rules.starts_with("symlinkat")) return errno_of(::symlink(value.c_str(), at.c_str()));
    const Fd file(::open(at.c_str(), O_WRONLY | O_CREAT, 0644));
    return errno_of(::fsetxattr(file.get(), "user.v", value.data(), value.size(), 0));
  }
  int take_back(int i) {
    if (GetParam().rules.starts_with("mkdirat")) return errno_of(::rmdir(path(i).c_str()));
    if (GetParam().rules.starts_with("symlinkat")) return errno_of(::unlink(path(i).c_str()));
    return errno_of(::removexattr(path(i).c_str(), "user.v"));
  }
  fs::path path(int i) const { return vm_ / ("name" + std::to_string(i)); }
};

TEST_P(KilledAtTheLimit, WhatWasDoneIsNotRefused) {
  home().set_limit("vm", "limit 2MiB\ncontrol_reserve 1MiB\n");
  {
    const Fd disk = create_file(vm_ / "disk");
    ASSERT_EQ(write_range(disk.get(), 0, 4 * MiB).error, ENOSPC);
  }
  int made = 0;
  int error = 0;
  while (made < 10'000 && (error = make(made)) == 0) ++made;
  ASSERT_EQ(error, ENOSPC);
  ASSERT_GT(made, 3);
  faults_on();
  for (int i = 0; i < 5; ++i) {
    const uint64_t before = restarts();
    ASSERT_EQ(take_back(made - 1), 0);
    // Without a death there is room for it: it was there.
    ASSERT_EQ(make(made - 1), 0) << i;
    ASSERT_GT(restarts(), before);
  }
  faults_off();
}

INSTANTIATE_TEST_SUITE_P(Fault, KilledAtTheLimit,
                         ::testing::ValuesIn(on({"ext4"}, {"mkdirat:late kill:1", "symlinkat:late kill:1",
                                                           "setxattr:late kill:1"})),
                         name_of);

// A worker whose threads all wait for ever.
class KillOfHangingWorker : public FaultTest {
 protected:
  void SetUp() override {
    FaultTest::SetUp();
    if (!home_) return;
    const fs::path vm = home().make_vm("vm");
    ASSERT_EQ(errno_of(::symlink("target", (vm / "link").c_str())), 0);
    const fs::path link = vm / "link";
    faults_on();
    // Its answer comes from the next worker, or never.
    reader_ = std::thread([link] {
      std::array<char, 16> target{};
      (void)!::readlink(link.c_str(), target.data(), target.size());
    });
    ASSERT_TRUE(eventually([this] { return injected() > 0; }));
    faults_off();
  }
  void TearDown() override {
    if (reader_.joinable()) reader_.join();
    FaultTest::TearDown();
  }
  // Whether the daemon's process that asks is in the kernel, where it waits for the worker.
  bool prober_waits() {
    const std::string daemon = std::to_string(home().daemon());
    std::ifstream children("/proc/" + daemon + "/task/" + daemon + "/children");
    for (std::string child, name, where; children >> child;) {
      std::getline(std::ifstream("/proc/" + child + "/comm"), name);
      std::getline(std::ifstream("/proc/" + child + "/wchan"), where);
      if (name == "limaquota-probe" && where.find("request_wait") != std::string::npos) return true;
    }
    return false;
  }
  std::thread reader_;
};

TEST_P(KillOfHangingWorker, IsReplaced) {
  const pid_t worker = home().worker();
  EXPECT_TRUE(eventually([&] { return home().worker() > 0 && home().worker() != worker; }));
  reader_.join();
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 1U);
}

// Nor does what asks the mount meanwhile whether it answers, and is told nothing.
TEST_P(KillOfHangingWorker, DoesNotKeepSigtermWaiting) {
  ASSERT_TRUE(eventually([this] { return prober_waits(); }));
  EXPECT_EQ(home().end_with_signal(SIGTERM), 0);
  EXPECT_EQ(home().log().find("has not answered"), std::string::npos)
      << "the end waited until it was replaced";
}

INSTANTIATE_TEST_SUITE_P(Fault, KillOfHangingWorker, ::testing::ValuesIn(on({"ext4"}, {"readlink:hang:1"})),
                         name_of);

// The daemon goes on as another binary, which is a copy of its own with faults of its own.
class KilledForAnUpgrade : public FaultTest {
 protected:
  void SetUp() override {
    FaultTest::SetUp();
    if (!home_) return;
    binary_ = scratch_->path() / "new";
    fs::copy_file(limaquota_binary(), binary_);
    disk_ = create_file(home().make_vm("vm") / "disk");
  }
  // What limaquota_faulty ended with: see Upgraded in fs/daemon/upgrade.hpp.
  int upgrade() { return run(quoted(binary_) + " upgrade " + quoted(home().mount())).status; }
  fs::path serving() { return fs::read_symlink("/proc/" + std::to_string(home().daemon()) + "/exe"); }

  fs::path binary_;
  Fd disk_;
};

TEST_P(KilledForAnUpgrade, GoesBackWhereItDoesNotServe) {
  const fs::path faults_of_new = scratch_->path() / "faults.new";
  std::ofstream(faults_of_new) << GetParam().rules << "\n";
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (uint64_t at = 0; !done; at = (at + 1) % 256)
      ASSERT_EQ(write_range(disk_.get(), at * 4 * KiB, 4 * KiB).error, 0);
  });
  EXPECT_EQ(upgrade(), 2) << "failed";
  EXPECT_NE(home().log().find("going back"), std::string::npos);
  // It is told of before it is done: the program that is executed cannot tell.
  EXPECT_TRUE(eventually([this] { return serving() == limaquota_binary(); })) << serving();
  fs::remove(faults_of_new);
  EXPECT_EQ(upgrade(), 0);
  EXPECT_EQ(serving(), binary_);
  done = true;
  writer.join();
  EXPECT_EQ(home().figure("_host", "supervisor_pid"), static_cast<uint64_t>(home().daemon()));
  disk_.close();
}

INSTANTIATE_TEST_SUITE_P(Fault, KilledForAnUpgrade,
                         ::testing::ValuesIn(on({"ext4"}, {"getdents:EIO:1", "pwrite:kill:1"})), name_of);

// A disk so slow that reading the home takes longer than a worker may hang.
class SlowTakeover : public FaultTest {};

TEST_P(SlowTakeover, IsNoHang) {
  home().make_vm("other");
  const Fd disk = create_file(home().make_vm("vm") / "disk");
  faults_on();
  const pid_t worker = home().worker();
  ASSERT_TRUE(kill_worker(home()));
  EXPECT_TRUE(eventually([&] { return home().worker() > 0 && home().worker() != worker; }));
  EXPECT_EQ(write_range(disk.get(), 0, MiB).error, 0);
  faults_off();
  EXPECT_EQ(home().figure("_host", "worker_restarts"), 1U);
  EXPECT_NE(home().log().find("still reads the home"), std::string::npos) << "it did not take that long";
}

INSTANTIATE_TEST_SUITE_P(Fault, SlowTakeover, ::testing::ValuesIn(on({"ext4"}, {"getdents:slow:1"})),
                         name_of);

}  // namespace
}  // namespace limaquota::fault_tests
