// Exact (P2): which account is charged with what: the accounting rules, each inode once, as du counts.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <set>

#include "tests/mount/harness/full_account.hpp"

namespace limaquota::mount_tests {
namespace {

class ChargeTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    one_ = home().make_vm("one");
    two_ = home().make_vm("two");
  }
  // Makes `path` with `size` written bytes.
  static Fd written_file(const fs::path& path, uint64_t size) {
    Fd file = create_file(path);
    EXPECT_EQ(write_range(file.get(), 0, size).error, 0);
    EXPECT_EQ(::fsync(file.get()), 0);
    return file;
  }
  void expect_rest(const std::string& account) {
    EXPECT_TRUE(home().comes_to_rest(account))
        << account << ": used " << home().used(account) << ", du " << home().du(account);
  }
  // Waits until `used` is within `slack` of `expected`.
  void expect_used(const std::string& account, uint64_t expected, uint64_t slack = 64 * KiB) {
    EXPECT_TRUE(eventually([&] {
      const uint64_t used = home().used(account);
      return used <= expected + slack && used + slack >= expected;
    })) << account
        << ": used " << home().used(account) << ", expected about " << expected;
  }

  fs::path one_;
  fs::path two_;
};

TEST_P(ChargeTest, EveryKindOfInodeCountsOnce) {
  fs::create_directories(one_ / "a/b/c");
  written_file(one_ / "a/file", 100'000).close();
  ASSERT_EQ(::link((one_ / "a/file").c_str(), (one_ / "a/b/link").c_str()), 0);
  ASSERT_EQ(::symlink(std::string(900, 't').c_str(), (one_ / "long").c_str()), 0);
  ASSERT_EQ(::symlink("a/file", (one_ / "short").c_str()), 0);
  ASSERT_EQ(::mknod((one_ / "fifo").c_str(), S_IFIFO | 0644, 0), 0);
  const Fd sparse = create_file(one_ / "disk");
  ASSERT_EQ(::ftruncate(sparse.get(), static_cast<off_t>(100 * GiB)), 0);
  ASSERT_EQ(write_range(sparse.get(), 50 * GiB, 10'000).error, 0);
  expect_rest("one");
  EXPECT_LT(home().used("one"), 2 * MiB);
  expect_rest("two");
  expect_rest("_shared");
}

TEST_P(ChargeTest, DirectoriesThatGrowCount) {
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(write_text(one_ / fmt::format("{}{}", std::string(120, 'n'), i), ""), 0);
  }
  expect_rest("one");
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(::unlink((one_ / fmt::format("{}{}", std::string(120, 'n'), i)).c_str()), 0);
  }
  expect_rest("one");
}

TEST_P(ChargeTest, TheRestBelongsToShared) {
  const uint64_t one = home().used("one");
  fs::create_directories(mount() / "_config");
  fs::create_directories(mount() / "_networks/net");
  fs::create_directories(mount() / "_disks");
  fs::create_directories(mount() / ".hidden");
  for (const char* name : {"_config/override.yaml", "_networks/net/pid", "file", ".hidden/file"}) {
    written_file(mount() / name, MiB).close();
  }
  // du is asked anew each time: XFS gives preallocation back when the daemon closes the files.
  EXPECT_TRUE(eventually([&] { return home().used("_shared") == home().du("_shared"); }));
  EXPECT_GE(home().used("_shared"), 4 * MiB);
  EXPECT_EQ(home().used("one"), one);
}

TEST_P(ChargeTest, StBlocksSeenThroughTheMountAreTheBackings) {
  const Fd file = written_file(one_ / "disk", 3 * MiB);
  ASSERT_EQ(write_scattered(file.get(), 8 * MiB, 16 * MiB, 4 * KiB, 16 * KiB).error, 0);
  ASSERT_EQ(::fsync(file.get()), 0);
  EXPECT_EQ(allocated(one_ / "disk"), allocated(home().backing() / "one/disk"));
}

TEST_P(ChargeTest, FiguresAreTheSameAfterARemount) {
  written_file(one_ / "disk", 2 * MiB).close();
  written_file(two_ / "a", 12345).close();
  fs::create_directories(mount() / "_config/x");
  home().sync_backing();
  std::map<std::string, uint64_t> before;
  for (const std::string& account : home().accounts()) {
    expect_rest(account);
    before[account] = home().used(account);
  }
  home().remount();
  for (const auto& [account, used] : before) EXPECT_EQ(home().used(account), used) << account;
}

TEST_P(ChargeTest, FileUnlinkedWhileOpenStaysChargedUntilItIsClosed) {
  Fd file = written_file(one_ / "disk", 4 * MiB);
  expect_rest("one");
  const uint64_t used = home().used("one");
  ASSERT_EQ(::unlink((one_ / "disk").c_str()), 0);
  EXPECT_GE(home().used("one") + 64 * KiB, used);
  ASSERT_EQ(write_range(file.get(), 4 * MiB, 4 * MiB).error, 0);
  EXPECT_GE(home().used("one") + 64 * KiB, used + 4 * MiB);
  EXPECT_TRUE(has_pattern(file.get(), 0, 8 * MiB));
  file.close();
  EXPECT_TRUE(eventually([&] { return home().used("one") < MiB; })) << home().used("one");
  expect_rest("one");
}

TEST_P(ChargeTest, FileUnlinkedWhileOpenIsHeldToTheLimit) {
  home().set_limit("one", "limit 16MiB\ncontrol_reserve 1MiB\n");
  Fd file = written_file(one_ / "disk", 4 * MiB);
  ASSERT_EQ(::unlink((one_ / "disk").c_str()), 0);
  const Written more = write_range(file.get(), 4 * MiB, 64 * MiB);
  EXPECT_EQ(more.error, ENOSPC);
  EXPECT_LE(more.bytes, 12 * MiB);
  const Fd second(::open((one_ / "iso").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  EXPECT_EQ(write_range(second.get(), 0, 4 * MiB).error, ENOSPC) << "the unlinked file holds the room";
  file.close();
  EXPECT_TRUE(eventually([&] { return home().used("one") < 2 * MiB; }));
  EXPECT_EQ(write_range(second.get(), 0, 4 * MiB).error, 0);
}

// Removed behind the mount's back after the kernel forgot it; and the number goes to the next new inode.
TEST_P(ChargeTest, InodeNumberReusedBehindTheMountIsCountedAnew) {
  if (!as_root()) GTEST_SKIP() << "an ordinary user cannot make the kernel forget inodes";
  const fs::path underneath = home().backing() / "one";
  const auto number = [&](const char* name) {
    struct stat st {};
    EXPECT_EQ(::lstat((underneath / name).c_str(), &st), 0) << name;
    return st.st_ino;
  };
  home().forget_unused();
  const size_t descriptors = home().backing_descriptors();
  // Not written through the mount: nothing of them is settled.
  written_file(underneath / "big", 300 * KiB);
  ASSERT_EQ(write_text(underneath / "empty", ""), 0);
  EXPECT_TRUE(fs::exists(one_ / "big") && fs::exists(one_ / "empty"));
  expect_rest("one");
  ASSERT_TRUE(eventually([&] {
    home().forget_unused();
    return home().backing_descriptors() <= descriptors;
  }));
  const std::set<ino_t> old = {number("big"), number("empty")};
  fs::remove(underneath / "big");
  fs::remove(underneath / "empty");
  ASSERT_EQ(write_text(underneath / "new", std::string(20 * KiB, 'n')), 0);
  fs::create_directory(underneath / "other");
  home().sync_backing();
  if (old != std::set<ino_t>{number("new"), number("other")}) {
    home().remount();
    GTEST_SKIP() << "the filesystem gave the new inodes other numbers";
  }
  for (const char* name : {"big", "empty", "new", "other"})
    EXPECT_TRUE(eventually([&] { return fs::exists(one_ / name) == fs::exists(underneath / name); })) << name;
  expect_rest("one");
}

TEST_P(ChargeTest, FileReplacedByRenameWhileOpenStaysCharged) {
  Fd file = written_file(one_ / "disk", 4 * MiB);
  written_file(one_ / "new", 1 * MiB).close();
  ASSERT_EQ(::rename((one_ / "new").c_str(), (one_ / "disk").c_str()), 0);
  EXPECT_GE(home().used("one"), 5 * MiB);
  file.close();
  EXPECT_TRUE(eventually([&] { return home().used("one") == home().du("one"); }));
  EXPECT_LT(home().used("one"), 2 * MiB);
}

TEST_P(ChargeTest, LinkIntoAnotherAccountGivesExdev) {
  written_file(one_ / "file", 1000).close();
  fs::create_directories(mount() / "_config");
  const fs::path file = one_ / "file";
  EXPECT_EQ(errno_of(::link(file.c_str(), (two_ / "file").c_str())), EXDEV);
  EXPECT_EQ(errno_of(::link(file.c_str(), (mount() / "file").c_str())), EXDEV);
  EXPECT_EQ(errno_of(::link(file.c_str(), (mount() / "_config/file").c_str())), EXDEV);
  EXPECT_EQ(errno_of(::link(file.c_str(), (one_ / "again").c_str())), 0);
  fs::create_directories(one_ / "sub");
  EXPECT_EQ(errno_of(::link(file.c_str(), (one_ / "sub/again").c_str())), 0);
  expect_rest("one");
}

TEST_P(ChargeTest, TmpfileGetsItsNameOnlyInItsAccount) {
  const Fd file(::open(one_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file) GTEST_SKIP() << "no O_TMPFILE with this libfuse";
  ASSERT_EQ(write_range(file.get(), 0, MiB).error, 0);
  EXPECT_GE(home().used("one"), MiB);
  const std::string link = fmt::format("/proc/self/fd/{}", file.get());
  EXPECT_EQ(errno_of(::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, (two_ / "file").c_str(), AT_SYMLINK_FOLLOW)),
            EXDEV);
  EXPECT_EQ(errno_of(::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, (one_ / "file").c_str(), AT_SYMLINK_FOLLOW)),
            0);
}

TEST_P(ChargeTest, BoundSocketCanBeLinkedAndConnectedByItsNewName) {
  const fs::path name = one_ / "s1";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.string().size() >= sizeof address.sun_path)
    GTEST_SKIP() << "the scratch path is too long for a socket";
  name.string().copy(address.sun_path, sizeof address.sun_path - 1);
  const Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(errno_of(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(errno_of(::link(name.c_str(), (one_ / "s2").c_str())), 0);
  (one_ / "s2").string().copy(address.sun_path, sizeof address.sun_path - 1);
  const Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(errno_of(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)), 0);
}

TEST_P(ChargeTest, RenameIntoAnotherAccountMovesTheCharge) {
  Fd file = written_file(one_ / "disk", 4 * MiB);
  expect_rest("one");
  const uint64_t one = home().used("one");
  const uint64_t two = home().used("two");
  const uint64_t disk = allocated(home().backing() / "one/disk");
  EXPECT_GE(disk, 4 * MiB);
  ASSERT_EQ(errno_of(::rename((one_ / "disk").c_str(), (two_ / "disk").c_str())), 0);
  expect_used("one", one - disk);
  expect_used("two", two + disk);
  // An open descriptor writes into the new account.
  home().set_limit("two", "limit 8MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(write_range(file.get(), 4 * MiB, 64 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("two"), 8 * MiB);
  expect_rest("one");
  expect_rest("two");
}

TEST_P(ChargeTest, RenameIntoAnotherAccountIsNotRefusedForQuota) {
  home().set_limit("two", "limit 3MiB\ncontrol_reserve 512KiB\n");
  Fd file = written_file(one_ / "disk", 4 * MiB);
  ASSERT_EQ(errno_of(::rename((one_ / "disk").c_str(), (two_ / "disk").c_str())), 0);
  expect_rest("two");
  EXPECT_EQ(home().state("two"), "over");
  EXPECT_EQ(write_range(file.get(), 4 * MiB, 64 * KiB).error, ENOSPC);
  EXPECT_EQ(write_range(file.get(), 0, 4 * MiB).error, 0);
  ASSERT_EQ(errno_of(::rename((two_ / "disk").c_str(), (one_ / "disk").c_str())), 0);
  expect_rest("two");
  EXPECT_EQ(home().state("two"), "ok");
}

TEST_P(ChargeTest, RenameOfADirectoryMovesAllBelowIt) {
  fs::create_directories(one_ / "tree/a/b");
  for (int i = 0; i < 40; ++i) written_file(one_ / fmt::format("tree/a/b/f{}", i), 50'000).close();
  const Fd open_below = open_file(one_ / "tree/a/b/f0", O_RDWR);
  expect_rest("one");
  const uint64_t one = home().used("one");
  const uint64_t two = home().used("two");
  const uint64_t tree = du(one_ / "tree");
  ASSERT_EQ(errno_of(::rename((one_ / "tree").c_str(), (two_ / "tree").c_str())), 0);
  expect_used("two", two + tree);
  expect_used("one", one - tree);
  ASSERT_EQ(write_range(open_below.get(), 0, 2 * MiB).error, 0);
  expect_rest("one");
  expect_rest("two");
}

TEST_P(ChargeTest, ExchangeBetweenAccountsMovesBothCharges) {
  written_file(one_ / "file", 4 * MiB).close();
  written_file(two_ / "file", 1 * MiB).close();
  ASSERT_EQ(errno_of(::renameat2(AT_FDCWD, (one_ / "file").c_str(), AT_FDCWD, (two_ / "file").c_str(),
                                 RENAME_EXCHANGE)),
            0);
  expect_used("one", MiB);
  expect_used("two", 4 * MiB);
  expect_rest("one");
  expect_rest("two");
}

TEST_P(ChargeTest, RenameOverAFileOfAnotherAccountFreesIt) {
  written_file(one_ / "file", 1 * MiB).close();
  written_file(two_ / "file", 4 * MiB).close();
  ASSERT_EQ(errno_of(::rename((one_ / "file").c_str(), (two_ / "file").c_str())), 0);
  expect_used("two", MiB);
  expect_rest("one");
  expect_rest("two");
}

TEST_P(ChargeTest, LimaRenamesAVmFileByFile) {
  written_file(one_ / "disk", 4 * MiB).close();
  const fs::path renamed = mount() / "renamed";
  ASSERT_EQ(::mkdir(renamed.c_str(), 0700), 0);
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(one_)) names.push_back(entry.path().filename());
  for (const fs::path& name : names) {
    ASSERT_EQ(errno_of(::rename((one_ / name).c_str(), (renamed / name).c_str())), 0) << name;
  }
  ASSERT_EQ(errno_of(::rmdir(one_.c_str())), 0);
  expect_rest("renamed");
  EXPECT_GE(home().used("renamed"), 4 * MiB);
  EXPECT_FALSE(fs::exists(mount() / ".usage/one"));
}

TEST_P(ChargeTest, RenamedVmDirectoryIsTheSameAccountByANewName) {
  Fd file = written_file(one_ / "disk", 4 * MiB);
  home().set_limit("one", "limit 16MiB\ncontrol_reserve 1MiB\n");
  ASSERT_EQ(errno_of(::rename(one_.c_str(), (mount() / "renamed").c_str())), 0);
  expect_rest("renamed");
  EXPECT_GE(home().used("renamed"), 4 * MiB);
  EXPECT_EQ(write_range(file.get(), 4 * MiB, 64 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("renamed"), 16 * MiB);
}

TEST_P(ChargeTest, MigratedVmsDiskSymlinkCountsTheFileOnce) {
  written_file(one_ / "diffdisk", 2 * MiB).close();
  written_file(one_ / "basedisk", 1 * MiB).close();
  ASSERT_EQ(::symlink("diffdisk", (one_ / "disk").c_str()), 0);
  ASSERT_EQ(::symlink("basedisk", (one_ / "iso").c_str()), 0);
  expect_rest("one");
  EXPECT_LT(home().used("one"), 3 * MiB + 256 * KiB);
  home().set_limit("one", "limit 16MiB\ncontrol_reserve 8MiB\n");
  const Fd disk = open_file(one_ / "disk", O_RDWR);
  EXPECT_EQ(write_range(disk.get(), 2 * MiB, 16 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("one"), 8 * MiB);
}

TEST_P(ChargeTest, DeletedVmLeavesNoAccountButItsLimitStays) {
  home().set_limit("one", "limit 16MiB\n");
  written_file(one_ / "disk", MiB).close();
  fs::remove_all(one_);
  EXPECT_TRUE(eventually([&] { return !fs::exists(mount() / ".usage/one"); }));
  EXPECT_TRUE(fs::exists(mount() / ".quota/one"));
  home().make_vm("one");
  EXPECT_EQ(home().figure("one", "limit"), 16 * MiB);
  expect_rest("one");
}

LIMAQUOTA_ON_ALL(ChargeTest);

}  // namespace
}  // namespace limaquota::mount_tests
