// Editors on `.quota`: their other names are scratch, in memory, and renaming one over a limit parses it
// first.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

class QuotaEditorsTest : public LimitedVmTest {
 protected:
  QuotaEditorsTest() : LimitedVmTest("limit 64MiB\n") {}
  void SetUp() override {
    LimitedVmTest::SetUp();
    if (home_ == nullptr) return;
    home().expect_log("refused for .quota/");
    quota_ = mount() / ".quota";
  }
  void TearDown() override {
    // No editor may leave anything in the backing tree, where only limits are kept.
    if (home_ != nullptr) {
      for (const auto& entry : fs::directory_iterator(home().backing() / ".quota"))
        EXPECT_TRUE(entry.path().filename() == "vm" || entry.path().filename() == "_disks") << entry.path();
    }
    MountTest::TearDown();
  }
  uint64_t limit() { return home().figure("vm", "limit"); }

  fs::path quota_;
};

TEST_P(QuotaEditorsTest, SedInPlace) {
  const CommandResult result = run("sed -i s/64/96/ " + quoted(quota_ / "vm"));
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(limit(), 96 * MiB) << read_text(quota_ / "vm");
}

TEST_P(QuotaEditorsTest, Vim) {
  const std::string vim = "HOME=" + quoted(scratch_->path()) + " vim -N -u NONE -i NONE -es -T dumb ";
  if (run("command -v vim").status != 0) GTEST_SKIP() << "vim is not installed";
  for (const char* options :
       {"'+set backup'", "'+set nobackup writebackup backupcopy=no'", "'+set backupcopy=yes'"}) {
    home().set_limit("vm", "limit 64MiB\n");
    const CommandResult result = run(vim + options + " '+%s/.*/limit 96MiB/' '+wq' " + quoted(quota_ / "vm"));
    EXPECT_EQ(result.status, 0) << options << result.output;
    EXPECT_EQ(limit(), 96 * MiB) << options << read_text(quota_ / "vm");
  }
}

// What vim does with backupcopy=no: probes a name, moves the old file away, writes a new one, removes the
// old.
TEST_P(QuotaEditorsTest, SavingByRenamingTheOldFileAway) {
  Fd probe(::open((quota_ / "4913").c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0100644));
  ASSERT_TRUE(probe) << errno;
  EXPECT_EQ(errno_of(::fchown(probe.get(), ::getuid(), ::getgid())), 0);
  probe.close();
  EXPECT_EQ(errno_of(::unlink((quota_ / "4913").c_str())), 0);
  EXPECT_EQ(write_text(quota_ / ".vm.swp", std::string(12288, 's')), 0);
  ASSERT_EQ(errno_of(::rename((quota_ / "vm").c_str(), (quota_ / "vm~").c_str())), 0);
  {
    const Fd fd(::open((quota_ / "vm").c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644));
    ASSERT_TRUE(fd) << errno;
    ASSERT_EQ(errno_of(::write(fd.get(), "limit 96MiB\n", 12)), 0);
    EXPECT_EQ(errno_of(::fsync(fd.get())), 0);
    EXPECT_EQ(errno_of(::fchmod(fd.get(), 0644)), 0);
  }
  EXPECT_EQ(limit(), 96 * MiB);
  EXPECT_EQ(errno_of(::unlink((quota_ / "vm~").c_str())), 0);
  EXPECT_EQ(errno_of(::unlink((quota_ / ".vm.swp").c_str())), 0);
  EXPECT_EQ(limit(), 96 * MiB);
}

TEST_P(QuotaEditorsTest, ReplacingByRename) {
  ASSERT_EQ(write_text(quota_ / "vm.tmp", "limit 96MiB\n"), 0);
  EXPECT_EQ(limit(), 64 * MiB);
  ASSERT_EQ(errno_of(::rename((quota_ / "vm.tmp").c_str(), (quota_ / "vm").c_str())), 0);
  EXPECT_EQ(limit(), 96 * MiB);
  EXPECT_EQ(errno_of(::access((quota_ / "vm.tmp").c_str(), F_OK)), ENOENT);
  EXPECT_NE(read_text(home().backing() / ".quota" / "vm").find("96"), std::string::npos);
}

TEST_P(QuotaEditorsTest, ReplacingByABadTextIsRefusedAndChangesNothing) {
  const std::string before = read_text(quota_ / "vm");
  ASSERT_EQ(write_text(quota_ / "vm.tmp", "limit lots\n"), 0);
  EXPECT_EQ(errno_of(::rename((quota_ / "vm.tmp").c_str(), (quota_ / "vm").c_str())), EINVAL);
  EXPECT_EQ(limit(), 64 * MiB);
  EXPECT_EQ(read_text(quota_ / "vm"), before);
  EXPECT_EQ(errno_of(::unlink((quota_ / "vm.tmp").c_str())), 0);
}

TEST_P(QuotaEditorsTest, ScratchHoldsWhatWasWrittenAndIsBounded) {
  ASSERT_EQ(write_text(quota_ / ".scratch", "anything\n"), 0);
  EXPECT_EQ(read_text(quota_ / ".scratch"), "anything\n");
  int error = 0;
  for (int i = 0; error == 0 && i < 256; ++i) {
    const Fd fd(::open((quota_ / (".s" + std::to_string(i))).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    error = fd ? write_range(fd.get(), 0, 1 * MiB).error : errno;
  }
  EXPECT_TRUE(error == ENOSPC || error == EFBIG) << error;
  // The limits are not starved by it.
  home().set_limit("vm", "limit 48MiB\n");
  EXPECT_EQ(limit(), 48 * MiB);
}

TEST_P(QuotaEditorsTest, ScratchIsGoneAfterARemount) {
  ASSERT_EQ(write_text(quota_ / ".scratch", "anything\n"), 0);
  home().remount();
  EXPECT_EQ(errno_of(::access((quota_ / ".scratch").c_str(), F_OK)), ENOENT);
  EXPECT_EQ(limit(), 64 * MiB);
}

TEST_P(QuotaEditorsTest, TheFileSeenIsTheFileKept) {
  home().set_limit("vm", "limit 80MiB\nwarn 75%\n");
  const std::string seen = read_text(quota_ / "vm");
  EXPECT_EQ(read_text(home().backing() / ".quota" / "vm"), seen);
  struct stat status = {};
  ASSERT_EQ(errno_of(::stat((quota_ / "vm").c_str(), &status)), 0);
  EXPECT_EQ(static_cast<size_t>(status.st_size), seen.size());
  EXPECT_EQ(status.st_uid, ::getuid());
}

LIMAQUOTA_ON(QuotaEditorsTest, "tmpfs", "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
