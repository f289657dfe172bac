// What is refused at mount: one line on stderr that says what and what to do, exit status 1, nothing mounted.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "tests/mount/harness/backings.hpp"
#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class RefusedMountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Filesystem filesystem = tested(all_filesystems()).front();
    const std::string why = why_not_prepared(filesystem);
    if (!why.empty()) GTEST_SKIP() << why;
    scratch_ = std::make_unique<Scratch>(filesystem);
    home_ = scratch_->path() / "home";
    fs::create_directories(home_ / "vm");
    ASSERT_EQ(write_text(home_ / "vm" / "disk", "x"), 0);
  }
  // Runs the command line, which must be refused in one line that says `what`.
  void expect_refused(const std::string& command, const std::string& what) {
    const CommandResult result = run(within_patience(command));
    EXPECT_EQ(result.status, 1) << result.output;
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
    EXPECT_NE(result.output.find(what), std::string::npos) << result.output;
    EXPECT_TRUE(fs::exists(home_ / "vm" / "disk"));
    EXPECT_FALSE(fs::exists(home_ / ".usage"));
  }
  void expect_refused_in_place(const std::string& what) { expect_refused(mount_command(home_, home_), what); }

  std::unique_ptr<Scratch> scratch_;
  fs::path home_;
};

// A process that `prepare` puts into the tree and that stays until the end of the scope.
class Squatter {
 public:
  explicit Squatter(const std::function<bool()>& prepare) {
    int ready[2] = {-1, -1};
    EXPECT_EQ(errno_of(::pipe2(ready, O_CLOEXEC)), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      const char ok = prepare() ? 'y' : 'n';
      (void)!::write(ready[1], &ok, 1);
      while (true) ::pause();
    }
    char answer = 'n';
    EXPECT_EQ(::read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Squatter() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Squatter(const Squatter&) = delete;
  Squatter& operator=(const Squatter&) = delete;

 private:
  pid_t pid_;
};

TEST_F(RefusedMountTest, AMissingDirectory) {
  expect_refused(mount_command(scratch_->path() / "missing", scratch_->path() / "missing"), "missing");
  fs::create_directory(scratch_->path() / "mnt");
  expect_refused(mount_command(scratch_->path() / "missing", scratch_->path() / "mnt"), "missing");
  expect_refused(mount_command(home_, scratch_->path() / "missing"), "missing");
}

TEST_F(RefusedMountTest, IoUringThatTheKernelDoesNotOffer) {
  if (!as_root()) GTEST_SKIP() << "switching it off, for this test alone, needs root";
  const fs::path off = scratch_->path() / "enable_uring";
  ASSERT_EQ(write_text(off, "N\n"), 0);
  const std::string command = "mount --bind " + quoted(off) +
                              " /sys/module/fuse/parameters/enable_uring && " +
                              mount_command(home_, home_, {"io_uring"});
  expect_refused("unshare --mount sh -c " + quoted(fs::path(command)), "enable_uring");
}

TEST_F(RefusedMountTest, SomethingThatIsNoDirectory) {
  ASSERT_EQ(write_text(scratch_->path() / "file", "x"), 0);
  expect_refused(mount_command(scratch_->path() / "file", scratch_->path() / "file"), "file");
}

TEST_F(RefusedMountTest, AnOptionThatIsNotKnown) {
  expect_refused(mount_command(home_, home_, {"no_such_option"}), "no_such_option");
}

TEST_F(RefusedMountTest, AnOpenFileInside) {
  const fs::path disk = home_ / "vm" / "disk";
  const Squatter squatter([&] { return ::open(disk.c_str(), O_RDWR) >= 0; });
  expect_refused_in_place("disk");
}

TEST_F(RefusedMountTest, AnOpenDirectoryInside) {
  const fs::path vm = home_ / "vm";
  const Squatter squatter([&] { return ::open(vm.c_str(), O_RDONLY | O_DIRECTORY) >= 0; });
  expect_refused_in_place("vm");
}

TEST_F(RefusedMountTest, AWorkingDirectoryInside) {
  const fs::path vm = home_ / "vm";
  const Squatter squatter([&] { return ::chdir(vm.c_str()) == 0; });
  expect_refused_in_place("vm");
}

TEST_F(RefusedMountTest, TheHomeItselfAsAWorkingDirectory) {
  const Squatter squatter([&] { return ::chdir(home_.c_str()) == 0; });
  expect_refused_in_place("home");
}

TEST_F(RefusedMountTest, AnotherFilesystemMountedInside) {
  if (!as_root()) GTEST_SKIP() << "only root can mount one";
  fs::create_directory(home_ / "vm" / "inside");
  ASSERT_EQ(errno_of(::mount("tmpfs", (home_ / "vm" / "inside").c_str(), "tmpfs", 0, nullptr)), 0);
  expect_refused_in_place("inside");
  EXPECT_EQ(errno_of(::umount((home_ / "vm" / "inside").c_str())), 0);
}

TEST_F(RefusedMountTest, ATreeThatIsAlreadyCovered) {
  MountedHome mounted(*scratch_, {.in_place = true, .options = {}});
  const CommandResult result = run(within_patience(mount_command(home_, home_)));
  EXPECT_EQ(result.status, 1) << result.output;
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  EXPECT_EQ(mounted.figure("vm", "limit"), UINT64_MAX);  // the first goes on
  mounted.finish();
}

TEST_F(RefusedMountTest, ATreeThatIsShownElsewhereAlready) {
  MountedHome mounted(*scratch_, {});
  const CommandResult result = run(within_patience(mount_command(home_, home_)));
  EXPECT_EQ(result.status, 1) << result.output;
  fs::create_directory(scratch_->path() / "second");
  const CommandResult second = run(within_patience(mount_command(home_, scratch_->path() / "second")));
  EXPECT_EQ(second.status, 1) << second.output;
  EXPECT_EQ(mounted.figure("vm", "limit"), UINT64_MAX);
  mounted.finish();
}

}  // namespace
}  // namespace limaquota::mount_tests
