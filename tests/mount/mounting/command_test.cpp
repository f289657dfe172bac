// The `limaquota` command on a mounted home: what it does, people could do with echo and cat.
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class CommandTest : public MountTest {
 protected:
  CommandResult limaquota(const std::string& arguments) {
    return run("LIMA_HOME=" + quoted(mount()) + " " + quoted(limaquota_binary()) + " " + arguments);
  }
};

TEST_P(CommandTest, SetChangesTheLimitAndSaysSo) {
  home().make_vm("vm");
  const CommandResult set = limaquota("set vm 64MiB");
  EXPECT_EQ(set.status, 0) << set.output;
  EXPECT_NE(set.output.find("64 MiB"), std::string::npos) << set.output;
  EXPECT_EQ(home().figure("vm", "limit"), 64 * MiB);
  EXPECT_EQ(limaquota("set vm max").status, 0);
  EXPECT_EQ(home().usage("vm")["limit"], "max");
  EXPECT_EQ(limaquota("set _host 512MiB").status, 0);
  EXPECT_EQ(home().figure("_host", "reserve"), 512 * MiB);
  EXPECT_EQ(limaquota("set _default 1GiB").status, 0);
  home().make_vm("later");
  EXPECT_EQ(home().figure("later", "limit"), 1 * GiB);
}

TEST_P(CommandTest, SetOfABadSizeOrAnUnknownVmChangesNothing) {
  home().make_vm("vm");
  EXPECT_NE(limaquota("set vm lots").status, 0);
  const CommandResult unknown = limaquota("set nobody 5GiB");
  EXPECT_EQ(unknown.status, 1) << unknown.output;
  EXPECT_NE(unknown.output.find("vm"), std::string::npos) << unknown.output;
  EXPECT_EQ(home().usage("vm")["limit"], "max");
}

TEST_P(CommandTest, SetAllVirtualMakesEachLimitItsVirtualSize) {
  for (const uint64_t gib : {1, 2}) {
    const fs::path vm = home().make_vm("vm" + std::to_string(gib));
    const Fd disk = create_file(vm / "disk");
    ASSERT_EQ(errno_of(::ftruncate(disk.get(), static_cast<off_t>(gib * GiB))), 0);
  }
  const CommandResult set = limaquota("set --all virtual");
  EXPECT_EQ(set.status, 0) << set.output;
  EXPECT_EQ(home().figure("vm1", "limit"), 1 * GiB);
  EXPECT_EQ(home().figure("vm2", "limit"), 2 * GiB);
}

TEST_P(CommandTest, StatusShowsEveryVmAndNamesThoseWithoutALimit) {
  home().make_vm("limited");
  home().make_vm("free");
  home().set_limit("limited", "64MiB");
  const CommandResult status = limaquota("status");
  EXPECT_EQ(status.status, 0) << status.output;
  EXPECT_NE(status.output.find("limited"), std::string::npos) << status.output;
  EXPECT_NE(status.output.find("64 MiB"), std::string::npos) << status.output;
  EXPECT_NE(status.output.find("free"), std::string::npos) << status.output;
  const auto json = nlohmann::json::parse(limaquota("status limited --json").output);
  EXPECT_EQ(json.at("limit"), 64 * MiB);
  EXPECT_EQ(limaquota("status nobody").status, 1);
}

TEST_P(CommandTest, UmountEndsTheMount) {
  EXPECT_EQ(limaquota("umount " + quoted(mount())).status, 0);
  EXPECT_FALSE(home().is_mounted());
  EXPECT_EQ(limaquota("umount " + quoted(mount())).status, 1);
  EXPECT_EQ(home().unmount(), 0) << "the daemon's exit status";
}

LIMAQUOTA_ON(CommandTest, "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
