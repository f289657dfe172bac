// Faults under the limit files, and under the scan at mount.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdexcept>

#include "tests/faults/fault_fixture.hpp"

namespace limaquota::fault_tests {
namespace {

using namespace mount_tests;

class FaultyLimitFile : public FaultTest {};

TEST_P(FaultyLimitFile, HoldsTheNewLimitOrTheOldOneAndSaysWhich) {
  home().make_vm("vm");
  uint64_t in_force = 100 * MiB;
  const auto text_of = [](uint64_t limit) { return "limit " + std::to_string(limit / MiB) + "MiB\n"; };
  home().set_limit("vm", text_of(in_force));
  const fs::path kept = home().backing() / ".quota" / "vm";
  for (uint64_t i = 0; i < 10; ++i) {
    faults_on();
    const uint64_t wanted = (101 + i) * MiB;
    const int error = home().try_set_limit("vm", text_of(wanted));
    faults_off();
    // An error after the file was renamed: what the file says is in force, and the caller knows to look.
    if (error == 0 || read_text(kept) == text_of(wanted)) in_force = wanted;
    EXPECT_EQ(home().figure("vm", "limit"), in_force) << "write " << i << " gave errno " << error;
    EXPECT_EQ(read_text(kept), text_of(in_force)) << "write " << i << " gave errno " << error;
    EXPECT_EQ(read_text(home().mount() / ".quota" / "vm"), text_of(in_force));
    if (HasFailure()) break;
  }
  expect_figures_come_right();
  home().remount();
  EXPECT_EQ(home().figure("vm", "limit"), in_force) << "after a remount";
}

TEST_P(FaultyLimitFile, FollowsARenamedVmOrTheRenameFails) {
  home().make_vm("vm0");
  home().set_limit("vm0", "100MiB");
  std::string name = "vm0";
  for (int i = 1; i <= 10; ++i) {
    const std::string next = "vm" + std::to_string(i);
    faults_on();
    (void)::rename((home().mount() / name).c_str(), (home().mount() / next).c_str());
    faults_off();
    if (fs::exists(home().backing() / next)) name = next;
    ASSERT_EQ(home().figure(name, "limit"), 100 * MiB) << name;
  }
  home().remount();
  EXPECT_EQ(home().figure(name, "limit"), 100 * MiB) << name << " after a remount";
}

const std::vector<std::string> limit_faults = {
    "nothing:EIO:1",   "openat_read:EIO:4", "openat_create:EIO:2", "pwrite:EIO:2",
    "pwrite:ENOSPC:2", "pwrite:short:2",    "pwrite:late EIO:2",   "fsync:EIO:2",
    "mkdirat:EIO:2",   "renameat2:EIO:2",   "fstatvfs:EIO:2",      "unlinkat:EIO:2\nfsync:EIO:2",
    "fstatat:EIO:2"};
INSTANTIATE_TEST_SUITE_P(Fault, FaultyLimitFile, ::testing::ValuesIn(on_all(limit_faults)), name_of);

// A home with something in it, mounted while the backing fails.
class FaultyScan : public FaultTest {
 protected:
  bool mounts_by_itself() const override { return false; }
  void TearDown() override {
    ::setenv("LIMAQUOTA_FAULTS_SEED", std::to_string(first_seed_).c_str(), 1);
    FaultTest::TearDown();
  }
  void prepare(const fs::path& home) override {
    for (const char* directory : {"vm", "vm/sub", "_disks", "_disks/data", "_config", ".quota"}) {
      fs::create_directory(home / directory);
    }
    for (const char* file : {"vm/disk", "vm/ha.log", "vm/sub/a", "_disks/data/datadisk", "_config/b"}) {
      const Fd fd = create_file(home / file);
      EXPECT_EQ(write_range(fd.get(), 0, 2 * MiB).error, 0);
    }
    EXPECT_EQ(write_text(home / ".quota" / "vm", "limit 50MiB\n"), 0);
    fs::create_symlink(scratch_->path() / "home" / "vm", home / "_disks/data/in_use_by");
  }

  const uint64_t first_seed_ = seed();
};

TEST_P(FaultyScan, IsRefusedOrCountsEverything) {
  for (uint64_t i = 0; i < 4; ++i) {
    faults_on();
    ::setenv("LIMAQUOTA_FAULTS_SEED", std::to_string(first_seed_ + i).c_str(), 1);
    try {
      mount();
    } catch (const std::runtime_error&) {
      continue;  // refused
    }
    faults_off();
    expect_figures_come_right();
    const auto usage = home().usage("vm");
    EXPECT_TRUE(usage.at("limit") == std::to_string(50 * MiB) || usage.at("state") == "damaged")
        << "limit " << usage.at("limit") << ", state " << usage.at("state") << "\n"
        << home().log();
    if (HasFailure()) break;
    EXPECT_EQ(home().unmount(), 0);
    home_.reset();
  }
}

const std::vector<std::string> scan_faults = {
    "nothing:EIO:1",  "openat_read:EIO:8", "openat_path:EIO:8", "fstat:EIO:8",   "fstatat:EIO:8",
    "getdents:EIO:8", "pread:EIO:2",       "readlink:EIO:2",    "extents:EIO:2", "pread:short:2"};
INSTANTIATE_TEST_SUITE_P(Fault, FaultyScan, ::testing::ValuesIn(on_all(scan_faults)), name_of);

}  // namespace
}  // namespace limaquota::fault_tests
