// A mount by root with allow_other: new files belong to the caller and access is checked by the kernel.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uid_t alice = 1001;
constexpr gid_t alices_group = 1101;
constexpr uid_t bob = 1002;

class AllowOtherTest : public MountTest {
 protected:
  void SetUp() override {
    if (!as_root()) GTEST_SKIP() << "needs a mount by root";
    MountTest::SetUp();
    if (home_ == nullptr) return;
    directory_ = mount() / "_open";
    ASSERT_EQ(errno_of(::mkdir(directory_.c_str(), 0755)), 0);
    ASSERT_EQ(errno_of(::chmod(directory_.c_str(), 0777)), 0);
  }
  MountSetup setup() const override { return {.in_place = false, .options = {"allow_other"}}; }

  // What ls -n says of a name below directory_, in the backing: "0640 1001:1101".
  std::string owner_and_mode(const std::string& name) {
    return run("stat -c '%04a %u:%g' " + quoted(home().backing() / "_open" / name) + " | tr -d '\\n'").output;
  }
  int as_alice(const std::function<int()>& body) { return in_child_as(alice, alices_group, body); }
  // A shell command of alice with supplementary groups.
  CommandResult alice_runs(const std::string& groups, const std::string& command) {
    return run("setpriv --reuid 1001 --regid 1101 --groups " + groups + " sh -c " +
               quoted(fs::path(command)));
  }

  fs::path directory_;
};

TEST_P(AllowOtherTest, NewFilesOfEveryKindBelongToTheCaller) {
  const fs::path d = directory_;
  const int status = as_alice([d] {
    ::umask(027);
    const Fd file(::open((d / "file").c_str(), O_CREAT | O_EXCL | O_RDWR, 0666));
    if (!file || ::write(file.get(), "x", 1) != 1) return errno;
    if (::mkdir((d / "dir").c_str(), 0777) != 0) return errno;
    if (::mkfifo((d / "fifo").c_str(), 0666) != 0) return errno;
    if (::symlink("file", (d / "symlink").c_str()) != 0) return errno;
    const Fd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string name = (d / "socket").string();
    if (name.size() >= sizeof address.sun_path || ::chdir(d.c_str()) != 0) return errno;
    std::string("socket").copy(address.sun_path, sizeof address.sun_path - 1);
    return errno_of(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(owner_and_mode("file"), "0640 1001:1101");
  EXPECT_EQ(owner_and_mode("dir"), "0750 1001:1101");
  EXPECT_EQ(owner_and_mode("fifo"), "0640 1001:1101");
  EXPECT_EQ(owner_and_mode("socket"), "0750 1001:1101");
  EXPECT_EQ(owner_and_mode("symlink"), "0777 1001:1101");
}

TEST_P(AllowOtherTest, AModeWithoutWriteIsNoObstacleToTheCreator) {
  const fs::path d = directory_;
  EXPECT_EQ(as_alice([d] {
              const Fd file(::open((d / "lima-version").c_str(), O_CREAT | O_WRONLY, 0444));
              return file ? errno_of(::write(file.get(), "2.2", 3)) : errno;
            }),
            0);
  EXPECT_EQ(owner_and_mode("lima-version"), "0444 1001:1101");
}

TEST_P(AllowOtherTest, ASetgidDirectoryHandsOnItsGroup) {
  ASSERT_EQ(errno_of(::chown(directory_.c_str(), 0, 5000)), 0);
  ASSERT_EQ(errno_of(::chmod(directory_.c_str(), 02777)), 0);
  const CommandResult result = alice_runs(
      "1101", "umask 022; cd " + quoted(directory_) + " && touch file && mkdir dir && mkfifo fifo");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(owner_and_mode("file"), "0644 1001:5000");
  EXPECT_EQ(owner_and_mode("dir"), "2755 1001:5000");
  EXPECT_EQ(owner_and_mode("fifo"), "0644 1001:5000");
}

TEST_P(AllowOtherTest, DefaultAclsAreInheritedAndTheUmaskDoesNotApply) {
  if (run("command -v setfacl").status != 0) GTEST_SKIP() << "acl is not installed";
  const CommandResult set = run("setfacl -d -m u::rwx,g::rwx,o::---,u:2000:rwx " + quoted(directory_));
  ASSERT_EQ(set.status, 0) << set.output;
  const CommandResult made =
      alice_runs("1101", "umask 077; cd " + quoted(directory_) + " && touch file && mkdir dir");
  EXPECT_EQ(made.status, 0) << made.output;
  EXPECT_EQ(owner_and_mode("file"), "0660 1001:1101");
  EXPECT_EQ(owner_and_mode("dir"), "0770 1001:1101");
  const std::string acl = run("getfacl -n " + quoted(directory_ / "file")).output;
  EXPECT_NE(acl.find("user:2000:rwx"), std::string::npos) << acl;
}

TEST_P(AllowOtherTest, AclsGrantAndDeny) {
  if (run("command -v setfacl").status != 0) GTEST_SKIP() << "acl is not installed";
  ASSERT_EQ(write_text(directory_ / "secret", "text"), 0);
  ASSERT_EQ(errno_of(::chmod((directory_ / "secret").c_str(), 0600)), 0);
  EXPECT_NE(alice_runs("1101", "cat " + quoted(directory_ / "secret")).status, 0);
  const CommandResult set = run("setfacl -m u:1001:r " + quoted(directory_ / "secret"));
  ASSERT_EQ(set.status, 0) << set.output;
  EXPECT_EQ(alice_runs("1101", "cat " + quoted(directory_ / "secret")).output, "text");
}

TEST_P(AllowOtherTest, AccessIsCheckedForTheCaller) {
  ASSERT_EQ(write_text(directory_ / "roots", "text"), 0);
  ASSERT_EQ(errno_of(::mkdir((directory_ / "closed").c_str(), 0700)), 0);
  const fs::path d = directory_;
  EXPECT_EQ(as_alice([d] { return errno_of(::open((d / "roots").c_str(), O_RDONLY)); }), 0);
  EXPECT_EQ(as_alice([d] { return errno_of(::open((d / "roots").c_str(), O_RDWR)); }), EACCES);
  EXPECT_EQ(as_alice([d] { return errno_of(::open((d / "closed" / "x").c_str(), O_CREAT | O_RDWR, 0644)); }),
            EACCES);
  EXPECT_EQ(as_alice([d] { return errno_of(::chmod((d / "roots").c_str(), 0777)); }), EPERM);
  EXPECT_EQ(as_alice([d] { return errno_of(::chown((d / "roots").c_str(), alice, alices_group)); }), EPERM);
  EXPECT_EQ(as_alice([d] { return errno_of(::truncate((d / "roots").c_str(), 0)); }), EACCES);
}

// The daemon is root's and could read it: a symlink in the tree, also one that took a file's place behind the
// mount's back, must not lend that right.
TEST_P(AllowOtherTest, ASymlinkLendsNobodyTheDaemonsRights) {
  const fs::path secret = scratch_->path() / "secret";
  ASSERT_EQ(write_text(secret, "roots"), 0);
  ASSERT_EQ(errno_of(::chmod(secret.c_str(), 0600)), 0);
  const fs::path d = directory_;
  const auto opened = [d](const char* name, int flags) {
    return errno_of(::open((d / name).c_str(), flags));
  };
  ASSERT_EQ(as_alice([d, secret] { return errno_of(::symlink(secret.c_str(), (d / "link").c_str())); }), 0);
  EXPECT_EQ(as_alice([&] { return opened("link", O_RDONLY); }), EACCES);
  EXPECT_EQ(as_alice([&] { return opened("link", O_WRONLY | O_TRUNC); }), EACCES);
  ASSERT_EQ(as_alice([d] { return write_text(d / "file", ""); }), 0);
  const fs::path underneath = home().backing() / "_open" / "file";
  ASSERT_EQ(errno_of(::unlink(underneath.c_str())), 0);
  ASSERT_EQ(errno_of(::symlink(secret.c_str(), underneath.c_str())), 0);
  // Until the kernel looks the name up again it may still be the old file, empty and without a name.
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(as_alice([d] {
                std::string text;
                std::getline(std::ifstream(d / "file"), text);
                return text == "roots" ? 1 : 0;
              }),
              0);
    return as_alice([&] { return opened("file", O_RDONLY); }) == EACCES;
  }));
  EXPECT_EQ(read_text(secret), "roots");
}

TEST_P(AllowOtherTest, ASupplementaryGroupCounts) {
  const fs::path shared = directory_ / "shared";
  ASSERT_EQ(errno_of(::mkdir(shared.c_str(), 0755)), 0);
  ASSERT_EQ(errno_of(::chown(shared.c_str(), 0, 3000)), 0);
  ASSERT_EQ(errno_of(::chmod(shared.c_str(), 0770)), 0);
  EXPECT_NE(alice_runs("1101", "touch " + quoted(shared / "file")).status, 0);
  const CommandResult made =
      alice_runs("1101,3000", "cd " + quoted(shared) + " && touch file && chgrp 3000 file");
  EXPECT_EQ(made.status, 0) << made.output;
  EXPECT_EQ(owner_and_mode("shared/file").substr(5), "1001:3000");
}

TEST_P(AllowOtherTest, AStickyDirectoryKeepsOthersFiles) {
  ASSERT_EQ(errno_of(::chmod(directory_.c_str(), 01777)), 0);
  const fs::path d = directory_;
  ASSERT_EQ(as_alice([d] { return write_text(d / "alices", "x"); }), 0);
  EXPECT_EQ(in_child_as(bob, bob, [d] { return errno_of(::unlink((d / "alices").c_str())); }), EPERM);
  EXPECT_EQ(as_alice([d] { return errno_of(::unlink((d / "alices").c_str())); }), 0);
}

TEST_P(AllowOtherTest, OnlyTheOwnerSetsLimits) {
  home().make_vm("vm");
  home().set_limit("vm", "64MiB");
  const fs::path quota = mount() / ".quota";
  const fs::path usage = mount() / ".usage";
  const auto refused = [](int error) { return error == EPERM || error == EACCES; };
  EXPECT_PRED1(refused, as_alice([quota] { return write_text(quota / "vm", "max\n"); }));
  EXPECT_PRED1(refused, as_alice([quota] { return write_text(quota / "vm", "max\n", 0); }));
  EXPECT_PRED1(refused, as_alice([quota] { return write_text(quota / "new", "max\n"); }));
  EXPECT_PRED1(refused, as_alice([quota] { return errno_of(::unlink((quota / "vm").c_str())); }));
  EXPECT_EQ(as_alice([usage] { return errno_of(::open((usage / "vm").c_str(), O_RDONLY)); }), 0);
  EXPECT_EQ(home().figure("vm", "limit"), 64 * MiB);
}

TEST_P(AllowOtherTest, AnotherUsersWritesAreHeldToTheLimit) {
  const fs::path vm = home().make_vm("vm");
  ASSERT_EQ(errno_of(::chmod(vm.c_str(), 0777)), 0);
  home().set_limit("vm", "limit 8MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(as_alice([vm] {
              const Fd disk(::open((vm / "disk").c_str(), O_CREAT | O_RDWR, 0644));
              return write_range(disk.get(), 0, 20 * MiB).error;
            }),
            ENOSPC);
  EXPECT_LE(home().du("vm"), 8 * MiB);
}

LIMAQUOTA_ON_ALL(AllowOtherTest);

// What becomes of a file's set-uid and set-gid bits must be what becomes of them without limaquota.
class SetuidTest : public MountTest {
 protected:
  MountSetup setup() const override {
    return as_root() ? MountSetup{.in_place = false, .options = {"allow_other"}} : MountSetup{};
  }
};

struct Change {
  const char* name;
  std::function<int(const fs::path&)> make;
};

const std::vector<Change>& changes() {
  static const std::vector<Change> all = {
      {"write", [](const fs::path& p) { return write_text(p, "y", 0); }},
      {"append", [](const fs::path& p) { return write_text(p, "y", O_APPEND); }},
      {"open with O_TRUNC", [](const fs::path& p) { return write_text(p, "", O_TRUNC); }},
      {"truncate", [](const fs::path& p) { return errno_of(::truncate(p.c_str(), 1)); }},
      {"truncate up", [](const fs::path& p) { return errno_of(::truncate(p.c_str(), 100000)); }},
      {"fallocate",
       [](const fs::path& p) {
         const Fd fd(::open(p.c_str(), O_WRONLY | O_CLOEXEC));
         return errno_of(::fallocate(fd.get(), 0, 0, 65536));
       }},
      {"direct write of a second descriptor",
       [](const fs::path& p) {
         const Fd first(::open(p.c_str(), O_RDWR | O_CLOEXEC));
         const Fd second(::open(p.c_str(), O_RDWR | O_CLOEXEC));
         return std::max(write_range(first.get(), 0, 10).error, write_range(second.get(), 0, 10).error);
       }},
      {"chown", [](const fs::path& p) { return errno_of(::chown(p.c_str(), ::getuid(), ::getgid())); }},
  };
  return all;
}

TEST_P(SetuidTest, BitsAreClearedAsOnTheBacking) {
  const fs::path bare = scratch_->path() / "bare";
  const fs::path mounted = mount() / "_files";
  for (const fs::path& directory : {bare, mounted}) {
    fs::create_directory(directory);
    ASSERT_EQ(errno_of(::chmod(directory.c_str(), 0777)), 0);
  }
  std::vector<uid_t> users = {::getuid()};
  if (as_root()) users.insert(users.end(), {alice, bob});
  for (const uid_t user : users)
    for (const mode_t mode : {04777, 02777, 06777, 02767})
      for (const Change& change : changes()) {
        mode_t after[2] = {};
        int error[2] = {};
        const std::string name = std::to_string(user) + std::to_string(mode) + change.name;
        for (const int i : {0, 1}) {
          const fs::path file = (i == 0 ? bare : mounted) / name;
          ASSERT_EQ(write_text(file, "some text"), 0);
          if (as_root()) {
            ASSERT_EQ(errno_of(::chown(file.c_str(), alice, alices_group)), 0);
          }
          ASSERT_EQ(errno_of(::chmod(file.c_str(), mode)), 0);
          error[i] = in_child_as(user, user, [&] { return change.make(file); });
          struct stat status = {};
          ASSERT_EQ(errno_of(::stat(file.c_str(), &status)), 0);
          after[i] = status.st_mode & 07777;
        }
        EXPECT_EQ(error[0], error[1]) << change.name << " by " << user;
        EXPECT_EQ(after[0], after[1])
            << std::oct << change.name << " of " << mode << " by " << std::dec << user;
      }
}

LIMAQUOTA_ON(SetuidTest, "tmpfs", "ext4", "xfs", "btrfs");

}  // namespace
}  // namespace limaquota::mount_tests
