// `.usage`: what the figures of an account say, when, and that nothing can change them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>

#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

class UsageTest : public LimitedVmTest {
 protected:
  UsageTest() : LimitedVmTest("limit 64MiB\ncontrol_reserve 1MiB\n") {}
  uint64_t figure(const std::string& key) { return home().figure("vm", key); }
};

TEST_P(UsageTest, KeysKeepTheirOrderAndDisksComeLast) {
  create_file(vm_ / "disk");
  std::istringstream lines(read_text(mount() / ".usage" / "vm"));
  std::vector<std::string> keys;
  for (std::string line; std::getline(lines, line);) keys.push_back(line.substr(0, line.find(' ')));
  const std::vector<std::string> first = {
      "limit",   "used",  "reserved",       "available",     "writable",          "peak",
      "virtual", "state", "refused_writes", "refused_bytes", "growth_per_second", "seconds_to_full"};
  ASSERT_GT(keys.size(), first.size());
  EXPECT_EQ(std::vector<std::string>(keys.begin(), keys.begin() + static_cast<long>(first.size())), first);
  EXPECT_EQ(keys.back(), "disk");
}

TEST_P(UsageTest, FiguresFollowWhatIsWritten) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), 1 * GiB)), 0);
  ASSERT_EQ(write_range(disk.get(), 0, 10 * MiB).error, 0);
  EXPECT_EQ(figure("limit"), 64 * MiB);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_GE(figure("used"), 10 * MiB);
  const auto usage = home().usage("vm");
  const auto number = [&](const char* key) { return std::stoull(usage.at(key)); };
  EXPECT_EQ(number("available"), number("limit") - number("used") - number("reserved"));
  EXPECT_EQ(number("writable"), 63 * MiB - number("used") - number("reserved"));
  EXPECT_GE(number("peak"), number("used"));
  EXPECT_EQ(number("virtual"), 1 * GiB);
  EXPECT_EQ(usage.at("state"), "ok");
  EXPECT_EQ(usage.at("disk"), "name=disk format=raw allocated=" + std::to_string(allocated(vm_ / "disk")) +
                                  " virtual=" + std::to_string(1 * GiB));
}

TEST_P(UsageTest, UsedFallsAndPeakStaysWhenBlocksAreFreed) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 20 * MiB).error, 0);
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), 0)), 0);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_LT(figure("used"), 1 * MiB);
  EXPECT_GE(figure("peak"), 20 * MiB);
}

TEST_P(UsageTest, StateGoesFromOkToWarnToFullToOver) {
  const Fd disk = create_file(vm_ / "disk");
  EXPECT_EQ(home().state("vm"), "ok");
  ASSERT_EQ(write_range(disk.get(), 0, 60 * MiB).error, 0);
  EXPECT_EQ(home().state("vm"), "warn");
  EXPECT_EQ(write_range(disk.get(), 60 * MiB, 10 * MiB).error, ENOSPC);
  EXPECT_EQ(write_range(disk.get(), 100 * MiB, 2 * MiB, block()).error, ENOSPC);
  EXPECT_TRUE(eventually([&] { return home().state("vm") == "full" || figure("writable") < 1 * MiB; }));
  home().set_limit("vm", "limit 32MiB\ncontrol_reserve 1MiB\n");
  EXPECT_EQ(home().state("vm"), "over");
  EXPECT_EQ(figure("available"), 0U);
  EXPECT_EQ(figure("writable"), 0U);
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), 1 * MiB)), 0);
  EXPECT_TRUE(eventually([&] { return home().state("vm") == "ok"; }));
}

TEST_P(UsageTest, WarnIsAtTheSetShareOfTheDiskLine) {
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 20 * MiB).error, 0);
  EXPECT_EQ(home().state("vm"), "ok");
  home().set_limit("vm", "limit 64MiB\ncontrol_reserve 1MiB\nwarn 25%\n");
  EXPECT_EQ(home().state("vm"), "warn");
}

TEST_P(UsageTest, RefusalsAreCounted) {
  const Fd disk = create_file(vm_ / "disk");
  EXPECT_EQ(write_range(disk.get(), 0, 80 * MiB, 1 * MiB).error, ENOSPC);
  const uint64_t writes = figure("refused_writes");
  const uint64_t bytes = figure("refused_bytes");
  EXPECT_GE(writes, 1U);
  EXPECT_GE(bytes, block());
  EXPECT_EQ(write_range(disk.get(), 90 * MiB, 4 * MiB, 4 * MiB).error, ENOSPC);
  EXPECT_GT(figure("refused_writes"), writes);
  EXPECT_GT(figure("refused_bytes"), bytes);
}

TEST_P(UsageTest, AQcow2DiskShowsItsVirtualSize) {
  std::array<unsigned char, 112> header = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
  header[23] = 16;     // cluster_bits
  header[24 + 3] = 5;  // size, big endian: 5 << 32
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(::pwrite(disk.get(), header.data(), header.size(), 0), static_cast<ssize_t>(header.size()));
  EXPECT_TRUE(eventually([&] { return figure("virtual") == 20 * GiB; }));
  EXPECT_NE(home().usage("vm")["disk"].find("format=qcow2"), std::string::npos);
}

TEST_P(UsageTest, GrowthAndTimeToFullAppearWhileADiskGrows) {
  EXPECT_EQ(home().usage("vm")["seconds_to_full"], "max");
  const Fd disk = create_file(vm_ / "disk");
  uint64_t offset = 0;
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(write_range(disk.get(), offset, 64 * KiB).error, 0);
    offset += 64 * KiB;
    const auto usage = home().usage("vm");
    return std::stoull(usage.at("growth_per_second")) > 0 && usage.at("seconds_to_full") != "max";
  }));
}

TEST_P(UsageTest, EveryReadIsOneConsistentMoment) {
  std::atomic<bool> ending = false;
  std::thread writer([&] {
    const Fd disk = create_file(vm_ / "disk");
    while (!ending) {
      (void)write_range(disk.get(), 0, 4 * MiB, 128 * KiB);
      (void)::ftruncate(disk.get(), 0);
    }
  });
  for (int i = 0; i < 300; ++i) {
    const auto usage = home().usage("vm");
    const auto number = [&](const char* key) { return std::stoull(usage.at(key)); };
    ASSERT_EQ(number("available"), number("limit") - number("used") - number("reserved"));
    ASSERT_EQ(number("writable"), 63 * MiB - number("used") - number("reserved"));
    ASSERT_GE(number("peak"), number("used"));
  }
  ending = true;
  writer.join();
}

TEST_P(UsageTest, ReadingFromTheStartAgainGivesNewFigures) {
  const Fd usage = open_file(mount() / ".usage" / "vm", O_RDONLY);
  std::array<char, 4096> before = {};
  std::array<char, 4096> after = {};
  ASSERT_GT(::pread(usage.get(), before.data(), before.size() - 1, 0), 0);
  const Fd disk = create_file(vm_ / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 5 * MiB).error, 0);
  ASSERT_GT(::pread(usage.get(), after.data(), after.size() - 1, 0), 0);
  EXPECT_STRNE(before.data(), after.data());
}

TEST_P(UsageTest, NothingBelowItCanBeChanged) {
  const auto refused = [](int error) { return error == EPERM || error == EACCES || error == EROFS; };
  const fs::path usage = mount() / ".usage";
  EXPECT_PRED1(refused, errno_of(::open((usage / "vm").c_str(), O_WRONLY | O_CLOEXEC)));
  EXPECT_PRED1(refused, errno_of(::open((usage / "new").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)));
  EXPECT_PRED1(refused, errno_of(::truncate((usage / "vm").c_str(), 0)));
  EXPECT_PRED1(refused, errno_of(::unlink((usage / "vm").c_str())));
  EXPECT_PRED1(refused, errno_of(::rmdir((usage / "_disks").c_str())));
  EXPECT_PRED1(refused, errno_of(::mkdir((usage / "new").c_str(), 0755)));
  EXPECT_PRED1(refused, errno_of(::symlink("x", (usage / "new").c_str())));
  EXPECT_PRED1(refused, errno_of(::mknod((usage / "new").c_str(), S_IFIFO | 0644, 0)));
  EXPECT_PRED1(refused, errno_of(::chmod((usage / "vm").c_str(), 0777)));
  EXPECT_PRED1(refused, errno_of(::rename((usage / "vm").c_str(), (usage / "new").c_str())));
  EXPECT_PRED1(refused, errno_of(::rename(usage.c_str(), (mount() / "moved").c_str())));
  EXPECT_PRED1(refused, errno_of(::rmdir(usage.c_str())));
  EXPECT_NE(errno_of(::link((usage / "vm").c_str(), (mount() / "linked").c_str())), 0);
  EXPECT_NE(errno_of(::rename((vm_ / "lima.yaml").c_str(), (usage / "vm").c_str())), 0);
  EXPECT_EQ(figure("limit"), 64 * MiB);
}

TEST_P(UsageTest, AnAccountAppearsWithItsDirectoryAndGoesWithIt) {
  const fs::path usage = mount() / ".usage";
  const auto listed = [&](const std::string& name) {
    for (const auto& entry : fs::directory_iterator(usage))
      if (entry.path().filename() == name) return true;
    return false;
  };
  for (const char* name : {"_host", "_shared", "_all.json", "_metrics", "_disks", "vm"})
    EXPECT_TRUE(listed(name)) << name;
  home().make_vm("second");
  EXPECT_TRUE(listed("second"));
  EXPECT_EQ(home().usage("second")["limit"], "max");
  fs::remove_all(mount() / "second");
  EXPECT_FALSE(listed("second"));
  EXPECT_EQ(errno_of(::access((usage / "second").c_str(), R_OK)), ENOENT);
  EXPECT_TRUE(eventually([&] { return home().used("_shared") == home().du("_shared"); }));
}

TEST_P(UsageTest, ANameWithBlanksAndNewlinesKeepsToItsLine) {
  const std::string name = "a vm\nused 7";
  const fs::path odd = home().make_vm(name);
  create_file(odd / "disk");
  EXPECT_EQ(home().usage(name)["limit"], "max");
  EXPECT_NE(read_text(mount() / ".usage" / "_metrics").find("a vm\\nused 7"), std::string::npos);
}

LIMAQUOTA_ON(UsageTest, "tmpfs", "ext4", "xfs");

}  // namespace
}  // namespace limaquota::mount_tests
