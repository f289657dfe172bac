// Admission and settling (P1, P3, P4): what room is made of before a write is refused, and what a refusal
// leaves.
#include <linux/falloc.h>

#include <vector>

#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

constexpr uint64_t block = MemorySys::block;

struct MeteredHome : SeamHome {
  explicit MeteredHome(const MemoryRules& rules) : SeamHome(rules) {}
  Result<size_t> write(File& file, uint64_t first, uint64_t count) {
    const std::vector<char> data(count * block, 'x');
    return metering.io.write(*file.inode, file.fd.get(), data.data(), data.size(), first * block);
  }
  // Every other block, so that each is an extent.
  void scatter(File& file, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) ASSERT_TRUE(write(file, 2 * i, 1)) << i;
  }
  Bytes du() const { return Bytes(sys.bytes_below("vm")); }
  uint64_t refused() const { return ledger.figures("vm", Bytes::unlimited())->refused_writes; }
};

TEST(SettlingTest, SlackIsGivenBackOnceWhatWasToComeHasCome) {
  MeteredHome home(MemoryRules::ext4());
  auto disk = home.disk("disk");
  home.scatter(disk, 1000);
  EXPECT_GT(home.reserved(), Bytes(0));
  const Bytes before = home.used();
  EXPECT_TRUE(home.metering.settling.settle_all());
  EXPECT_EQ(home.reserved(), Bytes(0));
  EXPECT_GT(home.used(), before) << "no metadata came late";
  EXPECT_EQ(home.used(), home.du());
  EXPECT_FALSE(home.metering.settling.settle_all()) << "twice";
}

TEST(SettlingTest, OnlyTheAccountsThatAreMeantAreSettled) {
  MeteredHome home(MemoryRules::ext4());
  auto disk = home.disk("disk");
  home.scatter(disk, 1000);
  const Bytes reserved = home.reserved();
  EXPECT_FALSE(home.metering.settling.settle_accounts({home.ledger.open("another")}));
  EXPECT_EQ(home.reserved(), reserved);
  EXPECT_TRUE(home.metering.settling.settle_accounts({home.account}));
  EXPECT_EQ(home.reserved(), Bytes(0));
}

TEST(AdmissionTest, WhatAnotherDiskHoldsInReserveIsSettledForTheOneThatNeedsIt) {
  MeteredHome home(MemoryRules::ext4());
  auto scattered = home.disk("disk");
  home.scatter(scattered, 1000);
  const Bytes held = home.reserved();
  ASSERT_GT(held, Bytes(2 * block));
  // Room for one block more than is free while the other's slack is held; a few late blocks of it will come.
  home.set_limit(home.used() + held + Ledger::hand);
  auto other = home.disk("diffdisk");
  const auto written = home.write(other, 0, 2);
  ASSERT_TRUE(written);
  EXPECT_EQ(*written, 2 * block);
  EXPECT_LT(home.reserved(), held) << "nothing was settled";
  EXPECT_EQ(home.refused(), 0U);
}

TEST(AdmissionTest, WhatWasPreallocatedGoesBeforeAWriteIsRefused) {
  MeteredHome home(MemoryRules::xfs());
  auto disk = home.disk("disk");
  ASSERT_TRUE(home.write(disk, 0, 64));
  ASSERT_GT(home.used(), Bytes(64 * block)) << "nothing was preallocated";
  home.set_limit(Bytes(128 * block) + Ledger::hand);
  EXPECT_EQ(home.write(disk, 64, 32).operator bool(), true);
  EXPECT_LE(home.du(), Bytes(128 * block) + Ledger::hand);
  EXPECT_EQ(home.refused(), 0U);
}

TEST(AdmissionTest, ARefusalChangesNothingAndIsCounted) {
  MeteredHome home(MemoryRules::tmpfs());
  auto disk = home.disk("disk");
  ASSERT_TRUE(home.write(disk, 0, 256));
  home.set_limit(home.used() + Ledger::hand);
  const std::string before = home.sys.picture(disk.fd.get());
  const auto refused = home.write(disk, 256, 8);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().value, ENOSPC);
  const auto fallocated = home.metering.io.fallocate(*disk.inode, disk.fd.get(), 0, 256 * block, 8 * block);
  ASSERT_FALSE(fallocated);
  EXPECT_EQ(fallocated.error().value, ENOSPC);
  EXPECT_EQ(home.sys.picture(disk.fd.get()), before);
  EXPECT_EQ(home.used(), Bytes(256 * block));
  EXPECT_EQ(home.reserved(), Bytes(0));
  EXPECT_EQ(home.refused(), 2U);
}

TEST(AdmissionTest, WhatIsWrittenAlreadyIsNeverRefused) {
  MeteredHome home(MemoryRules::ext4());
  auto disk = home.disk("disk");
  ASSERT_TRUE(home.write(disk, 0, 8));
  home.set_limit(Bytes(block));  // far below what is there
  EXPECT_TRUE(home.write(disk, 0, 8));
  EXPECT_FALSE(home.write(disk, 8, 1));
}

TEST(AdmissionTest, AFullHostIsSaidToBeOne) {
  MemoryRules rules = MemoryRules::tmpfs();
  rules.blocks = 64;
  MeteredHome home(rules);
  auto disk = home.disk("disk");
  home.ledger.set_host_reserve(Bytes(32 * block));
  const auto written = home.write(disk, 0, 64);
  ASSERT_TRUE(written);
  EXPECT_LE(*written, 32 * block);
  const auto refused = home.write(disk, 64, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(home.ledger.figures("vm", home.backing.free_bytes())->state, AccountState::host_full);
}

}  // namespace
}  // namespace limaquota
