// What Lima, ssh and QEMU do with sockets, locks, names and descriptors under the tree.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

class LimaFilesTest : public LimitedVmTest {
 protected:
  LimaFilesTest() : LimitedVmTest("1GiB") {}
};

sockaddr_un address_of(const fs::path& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = path.string();
  if (name.size() >= sizeof address.sun_path) ADD_FAILURE() << name << " is too long for a socket";
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

int connect_to(const fs::path& path) {
  const sockaddr_un address = address_of(path);
  const Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return errno_of(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
}

TEST_P(LimaFilesTest, ABoundSocketIsReachedByItsNameAndByAHardLinksName) {
  const sockaddr_un address = address_of(vm_ / "ssh.sock");
  const Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(errno_of(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address)), 0);
  ASSERT_EQ(errno_of(::listen(listener.get(), 5)), 0);
  EXPECT_EQ(connect_to(vm_ / "ssh.sock"), 0);
  ASSERT_EQ(errno_of(::link((vm_ / "ssh.sock").c_str(), (vm_ / "master.sock").c_str())), 0);
  EXPECT_EQ(connect_to(vm_ / "master.sock"), 0);
  ASSERT_EQ(errno_of(::unlink((vm_ / "ssh.sock").c_str())), 0);
  EXPECT_EQ(connect_to(vm_ / "master.sock"), 0);
}

TEST_P(LimaFilesTest, FlockHoldsOnFilesAndDirectoriesAndEndsWithTheHolder) {
  for (const fs::path& path : {vm_, vm_ / "lima.yaml"}) {
    const auto try_lock = [&] {
      const Fd other(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      return errno_of(::flock(other.get(), LOCK_EX | LOCK_NB));
    };
    Fd holder = open_file(path, O_RDONLY);
    ASSERT_EQ(errno_of(::flock(holder.get(), LOCK_EX)), 0);
    EXPECT_EQ(in_child(try_lock), EWOULDBLOCK);
    holder.close();
    EXPECT_EQ(in_child(try_lock), 0);
  }
}

TEST_P(LimaFilesTest, OfdLocksConflictBetweenOpensAndRecordLocksBetweenProcesses) {
  const Fd disk = create_file(vm_ / "disk");
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 100;
  lock.l_len = 104;
  ASSERT_EQ(errno_of(::fcntl(disk.get(), F_OFD_SETLK, &lock)), 0);
  const Fd second = open_file(vm_ / "disk", O_RDWR);
  EXPECT_EQ(errno_of(::fcntl(second.get(), F_OFD_SETLK, &lock)), EAGAIN);
  const Fd pid_file = create_file(vm_ / "ha.pid");
  lock.l_start = 0;
  ASSERT_EQ(errno_of(::fcntl(pid_file.get(), F_SETLK, &lock)), 0);
  const fs::path path = vm_ / "ha.pid";
  EXPECT_EQ(in_child([&] {
              const Fd other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
              return errno_of(::fcntl(other.get(), F_SETLK, &lock));
            }),
            EAGAIN);
}

TEST_P(LimaFilesTest, ANewFileWithoutWritePermissionIsWrittenByItsCreator) {
  const Fd file(::open((vm_ / "lima-version").c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444));
  ASSERT_TRUE(file);
  EXPECT_EQ(write_range(file.get(), 0, 100).error, 0);
}

TEST_P(LimaFilesTest, InotifySeesWhatIsAppendedToALog) {
  const Fd log = create_file(vm_ / "ha.stderr.log");
  const Fd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(::inotify_add_watch(watch.get(), (vm_ / "ha.stderr.log").c_str(), IN_MODIFY), 0);
  ASSERT_EQ(write_range(log.get(), 0, 100).error, 0);
  std::array<char, 4096> events = {};
  EXPECT_TRUE(eventually([&] { return ::read(watch.get(), events.data(), events.size()) > 0; }));
}

TEST_P(LimaFilesTest, UserXattrsAreKept) {
  const fs::path file = vm_ / "lima.yaml";
  const fs::path beneath = home().backing() / "vm" / "lima.yaml";
  const int error = errno_of(::setxattr(beneath.c_str(), "user.probe", "x", 1, 0));
  EXPECT_EQ(errno_of(::setxattr(file.c_str(), "user.test", "value", 5, 0)), error);
  if (error != 0) return;
  std::array<char, 16> value = {};
  EXPECT_EQ(::getxattr(beneath.c_str(), "user.test", value.data(), value.size()), 5);
  EXPECT_EQ(::getxattr(file.c_str(), "user.test", value.data(), value.size()), 5);
  EXPECT_EQ(errno_of(::setxattr(file.c_str(), "user.test", "x", 1, XATTR_CREATE)), EEXIST);
  EXPECT_EQ(errno_of(::removexattr(file.c_str(), "user.test")), 0);
  EXPECT_EQ(errno_of(::getxattr(file.c_str(), "user.test", value.data(), value.size())), ENODATA);
}

TEST_P(LimaFilesTest, RenameReplacesExchangesOrRefusesAsAsked) {
  const fs::path a = vm_ / "a";
  const fs::path b = vm_ / "b";
  ASSERT_EQ(write_text(a, "a"), 0);
  ASSERT_EQ(write_text(b, "b"), 0);
  EXPECT_EQ(errno_of(::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_NOREPLACE)), EEXIST);
  EXPECT_EQ(errno_of(::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE)), 0);
  EXPECT_EQ(read_text(a), "b");
  EXPECT_EQ(read_text(b), "a");
  const Fd open = open_file(b, O_RDWR);
  EXPECT_EQ(errno_of(::rename(a.c_str(), b.c_str())), 0);
  EXPECT_EQ(read_text(b), "b");
  std::array<char, 2> old = {};
  EXPECT_EQ(::pread(open.get(), old.data(), 1, 0), 1);
  EXPECT_STREQ(old.data(), "a");
  EXPECT_EQ(write_range(open.get(), 0, 4096).error, 0);
}

TEST_P(LimaFilesTest, AFileIsUsableAfterItsUnlink) {
  const Fd file = create_file(vm_ / "file");
  ASSERT_EQ(errno_of(::unlink((vm_ / "file").c_str())), 0);
  EXPECT_EQ(write_range(file.get(), 0, 1 * MiB).error, 0);
  EXPECT_TRUE(has_pattern(file.get(), 0, 1 * MiB));
  struct stat status = {};
  EXPECT_EQ(errno_of(::fstat(file.get(), &status)), 0);
  EXPECT_EQ(status.st_nlink, 0U);
  EXPECT_EQ(errno_of(::fchmod(file.get(), 0600)), 0);
  EXPECT_EQ(errno_of(::ftruncate(file.get(), 100)), 0);
  EXPECT_EQ(errno_of(::fsync(file.get())), 0);
}

TEST_P(LimaFilesTest, OTmpfileGetsANameOrIsRefusedAsUnsupported) {
  const Fd file(::open(vm_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644));
  if (!file) {
    EXPECT_EQ(errno, EOPNOTSUPP);  // what callers know to fall back from
    return;
  }
  EXPECT_EQ(write_range(file.get(), 0, 100000).error, 0);
  const std::string self = "/proc/self/fd/" + std::to_string(file.get());
  EXPECT_EQ(errno_of(::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, (vm_ / "named").c_str(), AT_SYMLINK_FOLLOW)),
            0);
  EXPECT_EQ(fs::file_size(vm_ / "named"), 100000U);
}

TEST_P(LimaFilesTest, AttributesAreTheBackings) {
  const fs::path file = vm_ / "file";
  const Fd fd = create_file(file);
  ASSERT_EQ(write_range(fd.get(), 10 * MiB, 100000).error, 0);
  ASSERT_EQ(errno_of(::fsync(fd.get())), 0);
  const std::array<timespec, 2> times = {timespec{1000000000, 123456789}, timespec{1100000000, 987654321}};
  ASSERT_EQ(errno_of(::futimens(fd.get(), times.data())), 0);
  struct stat seen = {};
  struct stat beneath = {};
  ASSERT_EQ(errno_of(::stat(file.c_str(), &seen)), 0);
  ASSERT_EQ(errno_of(::stat((home().backing() / "vm" / "file").c_str(), &beneath)), 0);
  EXPECT_EQ(seen.st_ino, beneath.st_ino);
  EXPECT_EQ(seen.st_blocks, beneath.st_blocks);
  EXPECT_EQ(seen.st_size, beneath.st_size);
  EXPECT_EQ(seen.st_mode, beneath.st_mode);
  EXPECT_EQ(seen.st_nlink, beneath.st_nlink);
  EXPECT_EQ(seen.st_mtim.tv_sec, 1100000000);
  EXPECT_EQ(seen.st_mtim.tv_nsec, beneath.st_mtim.tv_nsec);
  EXPECT_EQ(seen.st_atim.tv_nsec, beneath.st_atim.tv_nsec);
}

LIMAQUOTA_ON_ALL(LimaFilesTest);

}  // namespace
}  // namespace limaquota::mount_tests
