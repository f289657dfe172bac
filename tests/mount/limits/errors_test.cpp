// Refused, not lost (P4): the rows of the errors table that need a full account. Each is refused with ENOSPC,
// before anything changed.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/mount/harness/full_account.hpp"
#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t limit = 16 * MiB;

// "vm" is full to its limit with "disk" (written, whole blocks), "log" and a file of holes, "holes".
class FullAccountTest : public LimitedVmTest {
 protected:
  void SetUp() override {
    LimitedVmTest::SetUp();
    if (!home_) return;
    holes_ = create_file(vm_ / "holes");
    ASSERT_EQ(::ftruncate(holes_.get(), static_cast<off_t>(64 * MiB)), 0);
    ASSERT_EQ(::mkdir((vm_ / "many").c_str(), 0755), 0);
    fill_account(home(), "vm", block());
    before_ = home().du("vm");
    ASSERT_LE(before_, limit);
  }
  void TearDown() override {
    if (home_) {
      EXPECT_LE(home().du("vm"), limit);
      home().sync_backing();
      EXPECT_LE(home().du("vm"), limit) << "after sync";
    }
    holes_.close();
    MountTest::TearDown();
  }
  // Does `make` with many long names in a directory until it is refused: some filesystems need nothing for
  // the first entries. Where they count directories at all, it must end with ENOSPC.
  void expect_refused_at_last(const std::function<int(const fs::path&)>& make) {
    int error = 0;
    int made = 0;
    for (; made < 3000 && error == 0; ++made) {
      error = make(vm_ / "many" / fmt::format("{}-{}", std::string(200, 'n'), made));
    }
    if (error != 0) {
      EXPECT_EQ(error, ENOSPC) << "after " << made;
    }
    if (counts_metadata()) {
      EXPECT_EQ(error, ENOSPC) << "after " << made;
    }
    EXPECT_LE(home().du("vm"), limit);
  }
  bool counts_metadata() const { return is_ext4() || filesystem() == "xfs"; }

  Fd holes_;
  uint64_t before_ = 0;
};

TEST_P(FullAccountTest, WriteIsRefusedAndChangesNothing) {
  const FileState state = state_of(vm_ / "holes");
  EXPECT_EQ(write_range(holes_.get(), 1 * MiB, 256 * KiB).error, ENOSPC);
  EXPECT_EQ(write_range(holes_.get(), 80 * MiB, block(), block()).error, ENOSPC);
  EXPECT_EQ(state_of(vm_ / "holes"), state);
  EXPECT_EQ(state_of(home().backing() / "vm" / "holes"), state);
}

TEST_P(FullAccountTest, AppendIsRefusedAndChangesNothing) {
  const FileState state = state_of(vm_ / "log");
  const Fd log = open_file(vm_ / "log", O_WRONLY | O_APPEND);
  const std::string text(block(), 'x');
  EXPECT_EQ(errno_of(::write(log.get(), text.data(), text.size())), ENOSPC);
  EXPECT_EQ(state_of(vm_ / "log"), state);
}

TEST_P(FullAccountTest, RefusedWritesAreCounted) {
  const uint64_t writes = home().figure("vm", "refused_writes");
  const uint64_t bytes = home().figure("vm", "refused_bytes");
  EXPECT_EQ(write_range(holes_.get(), 1 * MiB, 64 * KiB).error, ENOSPC);
  EXPECT_GT(home().figure("vm", "refused_writes"), writes);
  EXPECT_GE(home().figure("vm", "refused_bytes"), bytes + block());
}

TEST_P(FullAccountTest, RefusalNeverComesAtFsyncOrClose) {
  for (const uint64_t at : {1 * MiB, 2 * MiB, 3 * MiB}) {
    EXPECT_EQ(write_range(holes_.get(), at, 64 * KiB).error, ENOSPC);
    EXPECT_EQ(errno_of(::fsync(holes_.get())), 0);
  }
  Fd again = open_file(vm_ / "holes", O_WRONLY);
  EXPECT_EQ(write_range(again.get(), 5 * MiB, 64 * KiB).error, ENOSPC);
  EXPECT_EQ(again.close(), 0);
}

TEST_P(FullAccountTest, FallocateIsRefusedAndChangesNothing) {
  const FileState state = state_of(vm_ / "holes");
  EXPECT_EQ(errno_of(::fallocate(holes_.get(), 0, 0, 4 * MiB)), ENOSPC);
  EXPECT_EQ(errno_of(::fallocate(holes_.get(), FALLOC_FL_KEEP_SIZE, 80 * MiB, 4 * MiB)), ENOSPC);
  EXPECT_EQ(errno_of(::fallocate(holes_.get(), 0, 80 * MiB, 4 * MiB)), ENOSPC);
  EXPECT_EQ(state_of(vm_ / "holes"), state);
}

TEST_P(FullAccountTest, FallocateOfWhatIsAllocatedIsNotRefused) {
  const Fd disk = open_file(vm_ / "disk", O_RDWR);
  EXPECT_EQ(errno_of(::fallocate(disk.get(), 0, 0, 4 * MiB)), 0);
}

TEST_P(FullAccountTest, ZeroRangeIsRefusedAndChangesNothing) {
  if (!has_zero_range()) GTEST_SKIP() << filesystem() << " has no ZERO_RANGE";
  const FileState state = state_of(vm_ / "holes");
  EXPECT_EQ(errno_of(::fallocate(holes_.get(), FALLOC_FL_ZERO_RANGE, 0, 4 * MiB)), ENOSPC);
  EXPECT_EQ(state_of(vm_ / "holes"), state);
}

TEST_P(FullAccountTest, CopyFileRangeIsRefusedAndChangesNothing) {
  const Fd disk = open_file(vm_ / "disk", O_RDONLY);
  const FileState state = state_of(vm_ / "holes");
  off_t from = 0;
  off_t to = 1 * MiB;
  EXPECT_EQ(errno_of(::copy_file_range(disk.get(), &from, holes_.get(), &to, 1 * MiB, 0)), ENOSPC);
  EXPECT_EQ(state_of(vm_ / "holes"), state);
}

TEST_P(FullAccountTest, TruncatingUpOverAPartialBlockNeverPassesTheLimit) {
  const Fd log = open_file(vm_ / "log", O_RDWR);
  const uint64_t size = state_of(vm_ / "log").size;
  // Shorter into the last block, then up again: the rest of that block must be zeroed.
  ASSERT_EQ(::ftruncate(log.get(), static_cast<off_t>(size - 100)), 0);
  const FileState state = state_of(vm_ / "log");
  const int error = errno_of(::ftruncate(log.get(), static_cast<off_t>(size + 10 * MiB)));
  EXPECT_TRUE(error == 0 || error == ENOSPC) << error;
  if (error != 0) {
    EXPECT_EQ(state_of(vm_ / "log"), state);
  }
}

TEST_P(FullAccountTest, TruncatingUpIsNotRefusedWhereItAllocatesNothing) {
  EXPECT_EQ(errno_of(::ftruncate(holes_.get(), static_cast<off_t>(128 * MiB))), 0);
}

TEST_P(FullAccountTest, CreateIsRefused) {
  expect_refused_at_last([](const fs::path& path) {
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    return errno_of(fd.get());
  });
}

TEST_P(FullAccountTest, MknodIsRefused) {
  expect_refused_at_last(
      [](const fs::path& path) { return errno_of(::mknod(path.c_str(), S_IFIFO | 0644, 0)); });
}

TEST_P(FullAccountTest, MkdirIsRefused) {
  expect_refused_at_last([](const fs::path& path) { return errno_of(::mkdir(path.c_str(), 0755)); });
}

TEST_P(FullAccountTest, SymlinkIsRefused) {
  expect_refused_at_last(
      [](const fs::path& path) { return errno_of(::symlink(std::string(1000, 't').c_str(), path.c_str())); });
}

TEST_P(FullAccountTest, LinkIsRefused) {
  expect_refused_at_last(
      [this](const fs::path& path) { return errno_of(::link((vm_ / "log").c_str(), path.c_str())); });
}

TEST_P(FullAccountTest, RenameIntoAnotherDirectoryThatMustGrowIsRefused) {
  // The names come from a directory of another account's, where there is room.
  const fs::path other = home().make_vm("other");
  for (int i = 0; i < 400; ++i) {
    ASSERT_EQ(write_text(other / fmt::format("{}", i), ""), 0);
  }
  uint64_t most = home().du("vm");
  for (int i = 0; i < 400; ++i) {
    const int error =
        errno_of(::rename((other / fmt::format("{}", i)).c_str(),
                          (vm_ / "many" / fmt::format("{}-{}", std::string(200, 'r'), i)).c_str()));
    if (error == ENOSPC) break;
    ASSERT_EQ(error, 0);
    most = std::max(most, home().du("vm"));
  }
  // Only the moved files' own blocks (none: they are empty) may come on top.
  EXPECT_LE(most, limit);
}

TEST_P(FullAccountTest, TmpfileNeverPassesTheLimit) {
  const Fd file(::open(vm_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file) {
    EXPECT_TRUE(errno == ENOSPC || errno == EOPNOTSUPP) << errno;
    return;
  }
  EXPECT_EQ(write_range(file.get(), 0, 64 * KiB).error, ENOSPC);
}

TEST_P(FullAccountTest, SetxattrIsRefused) {
  const std::string value(counts_metadata() ? block() - 200 : 2000, 'v');
  int error = errno_of(::setxattr((vm_ / "log").c_str(), "user.large", value.data(), value.size(), 0));
  if (counts_metadata()) {
    EXPECT_EQ(error, ENOSPC);
  } else {
    EXPECT_TRUE(error == 0 || error == ENOSPC || error == EOPNOTSUPP) << error;
  }
}

TEST_P(FullAccountTest, AclIsRefusedOrCostsNothing) {
  // version 2; user::rw-, 300 named users, group::r--, mask::rwx, other::r--: more than fits into an inode.
  std::string acl("\x02\0\0\0", 4);
  const auto entry = [&acl](unsigned tag, unsigned perm, uint32_t id) {
    for (const uint32_t value : {tag, perm}) {
      acl += static_cast<char>(value & 0xff);
      acl += static_cast<char>(value >> 8);
    }
    for (int shift = 0; shift < 32; shift += 8) acl += static_cast<char>(id >> shift & 0xff);
  };
  entry(0x01, 6, 0xffffffff);
  for (uint32_t id = 1; id <= 100; ++id) entry(0x02, 4, 1000 + id);
  entry(0x04, 4, 0xffffffff);
  entry(0x10, 7, 0xffffffff);
  entry(0x20, 4, 0xffffffff);
  const int error =
      errno_of(::setxattr((vm_ / "log").c_str(), "system.posix_acl_access", acl.data(), acl.size(), 0));
  EXPECT_TRUE(error == 0 || error == ENOSPC || error == EOPNOTSUPP || error == E2BIG) << error;
  if (filesystem() == "ext4") {
    EXPECT_EQ(error, ENOSPC);
  }
}

TEST_P(FullAccountTest, SmallXattrsInTheInodeNeverPassTheLimit) {
  for (int i = 0; i < 200; ++i) {
    const int error = errno_of(
        ::setxattr((vm_ / "log").c_str(), fmt::format("user.small{}", i).c_str(), "0123456789", 10, 0));
    if (error == EOPNOTSUPP) GTEST_SKIP() << filesystem() << " has no user xattrs here";
    EXPECT_TRUE(error == 0 || error == ENOSPC) << error;
    if (error != 0) break;
  }
}

TEST_P(FullAccountTest, StoreThroughASharedMappingIsToldByMsync) {
  constexpr size_t length = 256 * KiB;
  void* const map = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, holes_.get(), 0);
  ASSERT_NE(map, MAP_FAILED) << errno;
  std::fill_n(static_cast<char*>(map), length, 'm');
  EXPECT_EQ(errno_of(::msync(map, length, MS_SYNC)), ENOSPC);
  ::munmap(map, length);
}

TEST_P(FullAccountTest, OtherAccountsAreNotAffected) {
  const fs::path other = home().make_vm("other");
  home().set_limit("other", "limit 16MiB\n");
  const Fd disk = create_file(other / "disk");
  EXPECT_EQ(write_range(disk.get(), 0, 4 * MiB).error, 0);
}

TEST_P(FullAccountTest, RaisingTheLimitLetsWritersGoOn) {
  EXPECT_EQ(write_range(holes_.get(), 0, 64 * KiB).error, ENOSPC);
  home().set_limit("vm", "limit 24MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(write_range(holes_.get(), 0, 4 * MiB).error, 0);
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(home().state("vm"), "over");
  ASSERT_EQ(::ftruncate(holes_.get(), 0), 0);
}

class ShortWriteTest : public MountTest {};

TEST_P(ShortWriteTest, WriteThatPartlyFitsIsAShortWrite) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const std::string large(4 * MiB, 'x');
  for (const char* name : {"disk", "log"}) {
    const Fd file = create_file(vm / name);
    uint64_t size = 0;
    ssize_t wrote = 0;
    do {
      wrote = ::pwrite(file.get(), large.data(), large.size(), static_cast<off_t>(size));
      if (wrote > 0) size += static_cast<uint64_t>(wrote);
    } while (wrote == static_cast<ssize_t>(large.size()));
    EXPECT_GT(wrote, 0) << name;
    EXPECT_EQ(state_of(vm / name).size, size);
    // What is left is less than a further write needs, sooner or later.
    while (wrote > 0) {
      wrote = ::pwrite(file.get(), large.data(), large.size(), static_cast<off_t>(size));
      if (wrote > 0) size += static_cast<uint64_t>(wrote);
    }
    EXPECT_EQ(errno_of(wrote), ENOSPC);
    EXPECT_EQ(state_of(vm / name).size, size);
    EXPECT_LE(home().du("vm"), 16 * MiB);
    if (name == std::string("log")) break;
    // The control file has the control reserve to go; leave it a short write too.
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(size - 5 * MiB)), 0);
  }
}

TEST_P(ShortWriteTest, ShortWriteOverWrittenBlocksEndsAtTheFirstHole) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 1 * MiB).error, 0);
  ASSERT_EQ(::ftruncate(disk.get(), static_cast<off_t>(8 * MiB)), 0);
  ASSERT_EQ(::fsync(disk.get()), 0);
  fill_rest(vm, block());
  // The first half of this write overwrites, the second half would allocate.
  const std::string text(128 * KiB, 'y');
  const ssize_t wrote =
      ::pwrite(disk.get(), text.data(), text.size(), static_cast<off_t>(1 * MiB - 64 * KiB));
  EXPECT_GE(wrote, static_cast<ssize_t>(64 * KiB));
  EXPECT_LT(wrote, static_cast<ssize_t>(128 * KiB));
  EXPECT_LE(home().du("vm"), 16 * MiB);
}

LIMAQUOTA_ON_ALL(FullAccountTest);
LIMAQUOTA_ON_ALL(ShortWriteTest);

}  // namespace
}  // namespace limaquota::mount_tests
