// What a change needs, as pictures: '.' a hole, 'u' unwritten, 'w' written, 's' shared, a character for each
// block.
#include <vector>

#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

constexpr uint64_t block = MemorySys::block;

struct Drawn {
  Drawn(const MemoryRules& rules, const std::string& picture) : home(rules), disk(home.disk("disk")) {
    home.sys.draw(disk.fd.get(), picture);
    const MutexLock lock(disk.inode->mutex);
    home.metering.charges.observe(*disk.inode);
  }
  Result<Need> exact(uint64_t first, uint64_t count) {
    const MutexLock lock(disk.inode->mutex);
    return home.metering.needs.exact(*disk.inode, disk.fd.get(), {first * block, count * block});
  }
  bool in_place(uint64_t first, uint64_t count) {
    const MutexLock lock(disk.inode->mutex);
    return home.metering.needs.is_in_place(*disk.inode, disk.fd.get(), {first * block, count * block});
  }
  std::string picture() const { return home.sys.picture(disk.fd.get()); }

  SeamHome home;
  SeamHome::File disk;
};

TEST(NeedTest, WrittenBlocksNeedNothing) {
  Drawn drawn(MemoryRules::tmpfs(), "wwww");
  EXPECT_TRUE(drawn.in_place(0, 4));
  EXPECT_EQ(drawn.exact(1, 2)->bytes, Bytes(0));
}

TEST(NeedTest, HolesNeedThemselves) {
  Drawn drawn(MemoryRules::tmpfs(), "w..w");
  EXPECT_FALSE(drawn.in_place(0, 4));
  EXPECT_EQ(drawn.exact(0, 4)->bytes, Bytes(2 * block));
  EXPECT_EQ(drawn.exact(1, 1)->bytes, Bytes(block));
}

TEST(NeedTest, AWriteFillsTheHolesAndNoMore) {
  Drawn drawn(MemoryRules::tmpfs(), "w..w");
  const std::vector<char> data(4 * block, 'x');
  ASSERT_TRUE(
      drawn.home.metering.io.write(*drawn.disk.inode, drawn.disk.fd.get(), data.data(), data.size(), 0));
  EXPECT_EQ(drawn.picture(), "wwww");
  EXPECT_EQ(drawn.home.used(), Bytes(4 * block));
  EXPECT_EQ(drawn.home.reserved(), Bytes(0));
}

TEST(NeedTest, NothingIsInPlaceWhereEverythingIsCopied) {
  Drawn drawn(MemoryRules::btrfs(), "wwww");
  EXPECT_FALSE(drawn.in_place(0, 4));
}

TEST(NeedTest, UnwrittenBlocksAreThereButMaySplitAnExtent) {
  Drawn drawn(MemoryRules::ext4(), "uuuu");
  const auto need = drawn.exact(1, 1);
  EXPECT_EQ(need->extents, 1U);  // not counted as unwritten: nobody adopted them
  EXPECT_FALSE(drawn.in_place(1, 1));
}

TEST(NeedTest, AFewBlocksOnExt4HaveNoLateMetadata) {
  Drawn drawn(MemoryRules::ext4(), "w...");
  EXPECT_EQ(drawn.exact(1, 1)->bytes, Bytes(block));  // four extents lie in the inode
}

TEST(NeedTest, ManyBlocksOnXfsHave) {
  std::string picture(72, '.');
  picture.replace(0, 8, "wwwwwwww");
  Drawn drawn(MemoryRules::xfs(), picture);
  const auto need = drawn.exact(8, 64);
  EXPECT_GT(need->bytes, Bytes(64 * block));
}

TEST(NeedTest, ASharedBlockOnXfsIsCopiedInAWholeUnit) {
  Drawn drawn(MemoryRules::xfs(), "wssw");
  const auto need = drawn.exact(1, 1);
  EXPECT_GE(need->bytes, Bytes(32 * block));
  EXPECT_FALSE(drawn.in_place(1, 1));
}

TEST(NeedTest, WhatXfsPreallocatedPastTheEndIsNotCountedOn) {
  Drawn drawn(MemoryRules::xfs(), "ww");
  const std::vector<char> data(block, 'x');
  ASSERT_TRUE(drawn.home.metering.io.write(*drawn.disk.inode, drawn.disk.fd.get(), data.data(), data.size(),
                                           2 * block));
  EXPECT_GT(drawn.home.used(), Bytes(3 * block)) << "nothing was preallocated";
  EXPECT_GE(drawn.exact(3, 1)->bytes, Bytes(block));
}

// An eighth of a tiny limit stays in hand for what frees.
TEST(NeedTest, AsMuchIsLetInAsFits) {
  Drawn drawn(MemoryRules::tmpfs(), "w.........");
  drawn.home.set_limit(Bytes(8 * block));
  const std::vector<char> data(10 * block, 'x');
  MeteredIo& io = drawn.home.metering.io;
  const auto written = io.write(*drawn.disk.inode, drawn.disk.fd.get(), data.data(), data.size(), 0);
  ASSERT_TRUE(written);
  EXPECT_EQ(*written, 7 * block);
  EXPECT_EQ(drawn.picture(), "wwwwwww...");
  const auto refused = io.write(*drawn.disk.inode, drawn.disk.fd.get(), data.data(), block, 7 * block);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().value, ENOSPC);
}

}  // namespace
}  // namespace limaquota
