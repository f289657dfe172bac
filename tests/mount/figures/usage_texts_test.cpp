// `.usage/_host`, `_all.json`, `_metrics`.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class UsageTextsTest : public MountTest {};

TEST_P(UsageTextsTest, HostSaysWhatIsFreeAndWhatAllMayStillGrowBy) {
  const fs::path vm = home().make_vm("vm");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), 40 * MiB)), 0);
  ASSERT_EQ(write_range(disk.get(), 0, 10 * MiB).error, 0);
  home().set_limit("vm", "1GiB");
  home().set_limit("_host", "reserve 1.5GiB\n");
  EXPECT_TRUE(home().comes_to_rest("vm"));
  const auto host = [&](const char* key) { return home().figure("_host", key); };
  const uint64_t free = home().host_free();
  EXPECT_NEAR(static_cast<double>(host("free")), static_cast<double>(free), 64.0 * MiB);
  EXPECT_EQ(host("reserve"), 3 * GiB / 2);
  EXPECT_TRUE(eventually([&] { return host("used") == home().used("vm") + home().used("_shared"); }));
  // min(limit, virtual) - used of the one VM that has a disk.
  EXPECT_TRUE(eventually([&] { return host("worst_case") == 40 * MiB - home().used("vm"); }));
  EXPECT_EQ(host("overcommit"), 0U);
  EXPECT_EQ(host("limits"), 1 * GiB);  // of the VMs: `_shared` is no VM
}

TEST_P(UsageTextsTest, OvercommitIsWhatTheHostCouldNotGive) {
  const fs::path vm = home().make_vm("vm");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), 100 * GiB)), 0);
  const auto host = [&](const char* key) { return home().figure("_host", key); };
  EXPECT_GT(host("overcommit"), 90 * GiB);
  home().set_limit("vm", "100MiB");
  EXPECT_EQ(host("overcommit"), 0U);
}

TEST_P(UsageTextsTest, JsonHoldsTheSameFigures) {
  const fs::path vm = home().make_vm("vm");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, 3 * MiB).error, 0);
  home().set_limit("vm", "64MiB");
  EXPECT_TRUE(home().comes_to_rest("vm"));
  const auto all = nlohmann::json::parse(read_text(mount() / ".usage" / "_all.json"));
  EXPECT_TRUE(all.at("host").at("free").is_number_unsigned());
  std::map<std::string, nlohmann::json> accounts;
  for (const auto& account : all.at("accounts")) accounts[account.at("name")] = account;
  ASSERT_TRUE(accounts.contains("vm") && accounts.contains("_shared"));
  EXPECT_EQ(accounts["vm"].at("limit"), 64 * MiB);
  EXPECT_EQ(accounts["vm"].at("used"), home().used("vm"));
  EXPECT_EQ(accounts["vm"].at("disks").at(0).at("allocated"), allocated(vm / "disk"));
  EXPECT_TRUE(accounts["_shared"].at("limit").is_null());
}

TEST_P(UsageTextsTest, MetricsArePrometheusText) {
  home().make_vm("vm");
  home().set_limit("vm", "64MiB");
  std::istringstream lines(read_text(mount() / ".usage" / "_metrics"));
  const std::regex sample(R"rx(limaquota_[a-z_]+\{home="[^"]*"(,[a-z]+="[^"]*")*\} ([0-9.e+-]+|\+Inf))rx");
  const std::string here = "{home=\"" + mount().string() + "\"";
  bool limit_seen = false;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.starts_with("# HELP ") || line.starts_with("# TYPE ") || std::regex_match(line, sample))
        << line;
    EXPECT_TRUE(line.starts_with("# ") || line.find(here) != std::string::npos) << line;
    limit_seen |= line == "limaquota_limit_bytes" + here + ",vm=\"vm\"} " + std::to_string(64 * MiB);
  }
  EXPECT_TRUE(limit_seen);
}

LIMAQUOTA_ON(UsageTextsTest, "ext4", "tmpfs");

}  // namespace
}  // namespace limaquota::mount_tests
