// `.quota`: which texts set a limit, when they are in force, and what is refused.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

class QuotaTextTest : public LimitedVmTest {
 protected:
  QuotaTextTest() : LimitedVmTest("limit 64MiB\n") {}
  void SetUp() override {
    LimitedVmTest::SetUp();
    if (home_ == nullptr) return;
    home().expect_log("refused for .quota/");
    file_ = mount() / ".quota" / "vm";
  }
  uint64_t limit() { return home().figure("vm", "limit"); }
  // One write(2) on an open limit file; 0 or an errno.
  static int write_piece(const Fd& fd, const std::string& text) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    return n < 0 ? errno : n == static_cast<ssize_t>(text.size()) ? 0 : EIO;
  }

  fs::path file_;
};

TEST_P(QuotaTextTest, EchoAndTeeSetALimit) {
  EXPECT_EQ(run("echo 128MiB > " + quoted(file_)).status, 0);
  EXPECT_EQ(limit(), 128 * MiB);
  EXPECT_EQ(run("echo 1.5 GiB | tee " + quoted(file_)).status, 0);
  EXPECT_EQ(limit(), 3 * GiB / 2);
  EXPECT_EQ(run("echo max > " + quoted(file_)).status, 0);
  EXPECT_EQ(home().usage("vm")["limit"], "max");
  EXPECT_EQ(home().usage("vm")["available"], "max");
}

TEST_P(QuotaTextTest, SizesAreBinaryWhateverTheirSuffix) {
  const std::vector<std::pair<std::string, uint64_t>> sizes = {
      {"67108864", 64 * MiB}, {"64m", 64 * MiB},  {"64MB", 64 * MiB},        {"64 mib", 64 * MiB},
      {"0.5G", 512 * MiB},    {"1T", 1024 * GiB}, {"1P", 1024 * 1024 * GiB}, {"100000B", 100000}};
  for (const auto& [text, bytes] : sizes) {
    home().set_limit("vm", text + "\n");
    EXPECT_EQ(limit(), bytes) << text;
  }
}

TEST_P(QuotaTextTest, ALimitIsInForceWhenWriteReturns) {
  const Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
  ASSERT_EQ(write_piece(fd, "limit 32MiB\n"), 0);
  EXPECT_EQ(limit(), 32 * MiB);
}

TEST_P(QuotaTextTest, ALoneSizeIsInForceWhenWriteReturnsThoughItsLineIsOpen) {
  const Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
  ASSERT_EQ(write_piece(fd, "32MiB"), 0);
  EXPECT_EQ(limit(), 32 * MiB);
}

TEST_P(QuotaTextTest, ALoneSizeKeepsTheOtherLines) {
  home().set_limit("vm", "limit 64MiB\nwarn 50%\ncontrol_reserve 2MiB\n");
  home().set_limit("vm", "96MiB\n");
  EXPECT_EQ(limit(), 96 * MiB);
  const std::string text = read_text(file_);
  EXPECT_NE(text.find("warn 50%"), std::string::npos) << text;
  EXPECT_NE(text.find("control_reserve"), std::string::npos) << text;
}

TEST_P(QuotaTextTest, ANumberCutInTwoIsNeverInForce) {
  Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
  ASSERT_EQ(write_piece(fd, "limit 12"), 0);
  EXPECT_EQ(limit(), 64 * MiB);
  ASSERT_EQ(write_piece(fd, "8MiB\n"), 0);
  EXPECT_EQ(limit(), 128 * MiB);
  EXPECT_EQ(fd.close(), 0);
  EXPECT_EQ(limit(), 128 * MiB);
}

TEST_P(QuotaTextTest, TextWithoutAFinalNewlineCountsFromClose) {
  Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
  ASSERT_EQ(write_piece(fd, "limit 32MiB"), 0);
  EXPECT_EQ(limit(), 64 * MiB);
  EXPECT_EQ(fd.close(), 0);
  EXPECT_TRUE(eventually([&] { return limit() == 32 * MiB; }));
}

// A shell's redirection opens, duplicates and closes before it writes; its children close what they
// inherited.
TEST_P(QuotaTextTest, ClosingADuplicateIsNotYetTheClose) {
  const Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
  Fd(::dup(fd.get())).close();
  ASSERT_EQ(write_piece(fd, "limit 12"), 0);
  EXPECT_EQ(in_child([&] { return errno_of(::close(fd.get())); }), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(limit(), 64 * MiB);
  ASSERT_EQ(write_piece(fd, "8MiB\n"), 0);
  EXPECT_EQ(limit(), 128 * MiB);
}

TEST_P(QuotaTextTest, AppendingIsParsedWithWhatIsThere) {
  EXPECT_EQ(write_text(file_, "warn 40%\n", O_APPEND), 0);
  EXPECT_EQ(limit(), 64 * MiB);
  const std::string text = read_text(file_);
  EXPECT_NE(text.find("limit "), std::string::npos) << text;
  EXPECT_NE(text.find("warn 40%"), std::string::npos) << text;
  EXPECT_EQ(write_text(file_, "limit 1GiB\n", O_APPEND), EINVAL);  // a second limit line
  EXPECT_EQ(limit(), 64 * MiB);
}

TEST_P(QuotaTextTest, ABadValueIsEinvalAndChangesNothing) {
  home().set_limit("vm", "limit 64MiB\nwarn 70%\n");
  const std::string before = read_text(file_);
  for (const char* text :
       {"lots\n", "-1\n", "+1\n", "1e9\n", "12XB\n", "20000P\n", "1.\n", "limit\n", "limit 5GiB more\n",
        "limit 1GiB\nlimit 2GiB\n", "limit 1GiB\nwarn 0%\n", "limit 1GiB\nwarn 101%\n",
        "limit 1GiB\nlimits 3\n", "max 3\n", "limit 1GiB\nloan 5MiB\n",
        "limit 1GiB\nloan 5MiB until tomorrow\n", "limit 1GiB\ncontrol_reserve -4\n"}) {
    EXPECT_EQ(home().try_set_limit("vm", text), EINVAL) << text;
    EXPECT_EQ(limit(), 64 * MiB) << text;
    EXPECT_EQ(read_text(file_), before) << text;
    EXPECT_EQ(read_text(home().backing() / ".quota" / "vm"), before) << text;
  }
  EXPECT_EQ(home().try_set_limit("vm", std::string("limit 1GiB\0\n", 12)), EINVAL);
  EXPECT_EQ(limit(), 64 * MiB);
}

TEST_P(QuotaTextTest, TruncatingToNothingChangesNoLimitAndCloseBringsTheTextBack) {
  const std::string before = read_text(file_);
  {
    const Fd fd = open_file(file_, O_WRONLY | O_TRUNC);
    EXPECT_EQ(limit(), 64 * MiB);
  }
  EXPECT_EQ(limit(), 64 * MiB);
  EXPECT_TRUE(eventually([&] { return read_text(file_) == before; }));
  EXPECT_EQ(run(": > " + quoted(file_)).status, 0);
  EXPECT_TRUE(eventually([&] { return read_text(file_) == before; }));
  EXPECT_EQ(limit(), 64 * MiB);
}

TEST_P(QuotaTextTest, RemovingTheFileReturnsTheVmToTheDefault) {
  home().set_limit("_default", "1GiB");
  EXPECT_EQ(limit(), 64 * MiB);
  ASSERT_EQ(errno_of(::unlink(file_.c_str())), 0);
  EXPECT_EQ(limit(), 1 * GiB);
  ASSERT_EQ(errno_of(::unlink((mount() / ".quota" / "_default").c_str())), 0);
  EXPECT_EQ(home().usage("vm")["limit"], "max");
}

TEST_P(QuotaTextTest, TheDefaultIsForVmsWithoutAFileOnly) {
  home().make_vm("other");
  ASSERT_EQ(errno_of(::mkdir((mount() / "_disks").c_str(), 0755)), 0);
  ASSERT_EQ(errno_of(::mkdir((mount() / "_disks" / "data").c_str(), 0755)), 0);
  home().set_limit("_default", "2GiB");
  EXPECT_EQ(limit(), 64 * MiB);
  EXPECT_EQ(home().figure("other", "limit"), 2 * GiB);
  EXPECT_EQ(home().usage("_shared")["limit"], "max");
  home().set_limit("_disks/data", "3GiB");
  EXPECT_EQ(home().figure("_disks/data", "limit"), 3 * GiB);
  home().set_limit("_shared", "4GiB");
  EXPECT_EQ(home().figure("_shared", "limit"), 4 * GiB);
}

TEST_P(QuotaTextTest, TheHostReserveIsSetInItsFile) {
  home().set_limit("_host", "reserve 512MiB\n");
  EXPECT_EQ(home().figure("_host", "reserve"), 512 * MiB);
  EXPECT_EQ(home().try_set_limit("_host", "limit 5GiB\n"), EINVAL);
  EXPECT_EQ(home().figure("_host", "reserve"), 512 * MiB);
  ASSERT_EQ(errno_of(::unlink((mount() / ".quota" / "_host").c_str())), 0);
  EXPECT_EQ(home().figure("_host", "reserve"), 1 * GiB);
}

TEST_P(QuotaTextTest, ALoanIsAddedAndEndsByItself) {
  int64_t until = 0;
  uint64_t lent = 0;
  // Where the loan was over before it was looked at, one that lasts longer.
  for (int64_t seconds = 2; until <= ::time(nullptr); seconds *= 2) {
    until = ::time(nullptr) + seconds;
    home().set_limit("vm", "limit 64MiB\nloan 16MiB until " + std::to_string(until) + "\n");
    lent = limit();
  }
  EXPECT_EQ(lent, 80 * MiB);
  EXPECT_TRUE(eventually([&] { return limit() == 64 * MiB; }));
  EXPECT_GE(::time(nullptr), until);
  EXPECT_TRUE(eventually([&] { return read_text(file_).find("loan") == std::string::npos; }))
      << read_text(file_);
  EXPECT_TRUE(eventually(
      [&] { return read_text(home().backing() / ".quota" / "vm").find("loan") == std::string::npos; }));
}

TEST_P(QuotaTextTest, NeitherDirectoriesNorLinksAreMadeHere) {
  const auto refused = [](int error) { return error == EPERM || error == EACCES; };
  const fs::path quota = mount() / ".quota";
  EXPECT_PRED1(refused, errno_of(::mkdir((quota / "new").c_str(), 0755)));
  EXPECT_PRED1(refused, errno_of(::symlink("vm", (quota / "new").c_str())));
  EXPECT_PRED1(refused, errno_of(::link(file_.c_str(), (quota / "new").c_str())));
  EXPECT_PRED1(refused, errno_of(::rename(quota.c_str(), (mount() / "moved").c_str())));
  EXPECT_PRED1(refused, errno_of(::rmdir(quota.c_str())));
}

TEST_P(QuotaTextTest, WritingALimitIsExemptFromLimits) {
  home().set_limit("_shared", "4KiB");
  EXPECT_EQ(write_text(mount() / "file", std::string(100000, 'x')), ENOSPC);
  home().set_limit("vm", "limit 32MiB\nwarn 80%\n");
  home().set_limit("_default", "1GiB");
  EXPECT_EQ(limit(), 32 * MiB);
}

TEST_P(QuotaTextTest, RaisingALimitLetsARefusedWriterGoOn) {
  home().set_limit("vm", "limit 8MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(mount() / "vm" / "disk");
  const Written first = write_range(disk.get(), 0, 20 * MiB);
  EXPECT_EQ(first.error, ENOSPC);
  home().set_limit("vm", "64MiB");
  EXPECT_EQ(write_range(disk.get(), first.bytes, 20 * MiB - first.bytes).error, 0);
  EXPECT_TRUE(has_pattern(disk.get(), 0, 20 * MiB));
}

LIMAQUOTA_ON(QuotaTextTest, "tmpfs", "ext4", "btrfs");

}  // namespace
}  // namespace limaquota::mount_tests
