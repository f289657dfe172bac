// The promise, at every system call: what a VM occupies never passes its limit, whatever is done to its
// disks, on filesystems that allocate late, preallocate and copy shared blocks.
#include <linux/falloc.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/environment.hpp"
#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

class PromiseTest : public testing::TestWithParam<NamedRules> {
 public:
  static constexpr uint64_t block = MemorySys::block;

  // One life of a home with three disks, of random changes.
  struct Life {
    Life(const MemoryRules& rules, uint64_t seed) : home(rules), random(seed) {
      home.set_limit(limit());
      for (const char* name : {"disk", "diffdisk", "datadisk"}) disks.push_back(home.disk(name));
      home.sys.after_call = [this](const char* call) {
        if (home.sys.bytes_below("vm") > limit().count() && passed.empty())
          passed = std::string(call) + ", call " + std::to_string(home.sys.calls());
      };
    }
    static Bytes limit() { return 1_MiB; }
    uint64_t below(uint64_t end) { return random() % end; }
    // Blocks that lie together now and then, and bytes that do not begin with one.
    ByteRange range() {
      const uint64_t first = below(400) * block + (below(4) == 0 ? below(block) : 0);
      return {first, 1 + below(below(3) == 0 ? 40 * block : 3 * block)};
    }

    void step() {
      MeteredIo& io = home.metering.io;
      SeamHome::File& file = disks[below(disks.size())];
      const ByteRange where = range();
      const std::vector<char> data(where.length, 'x');
      switch (below(12)) {
        case 0:
          (void)!io.fallocate(*file.inode, file.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              where.offset, where.length);
          break;
        case 1:
          (void)!io.fallocate(*file.inode, file.fd.get(), below(2) == 0 ? 0 : FALLOC_FL_KEEP_SIZE,
                              where.offset, where.length);
          break;
        case 2:
          (void)!io.fallocate(*file.inode, file.fd.get(), FALLOC_FL_ZERO_RANGE, where.offset, where.length);
          break;
        case 3:
          (void)!io.truncate(*file.inode, file.fd.get(), below(400) * block + below(2) * below(block));
          break;
        case 4:
          (void)!io.sync(*file.inode, file.fd.get(), DataPath::Synced::data);
          break;
        case 5:
          (void)home.metering.settling.settle_all();
          break;
        case 6: {
          SeamHome::File& from = disks[below(disks.size())];
          if (from.inode == file.inode) break;
          (void)!io.copy(*from.inode, from.fd.get(), below(100) * block, *file.inode, file.fd.get(),
                         below(100) * block, (1 + below(20)) * block);
          break;
        }
        default:
          (void)!io.write(*file.inode, file.fd.get(), data.data(), data.size(), where.offset);
      }
      if (home.used().count() != sum_of_disks() && passed.empty())
        passed = "what is charged is not what du says";
    }

    uint64_t sum_of_disks() {
      uint64_t sum = 0;
      for (const SeamHome::File& disk : disks)
        sum += Bytes::of_st_blocks(home.sys.fstat(disk.fd.get())->st_blocks).count();
      return sum;
    }

    SeamHome home;
    std::mt19937_64 random;
    std::vector<SeamHome::File> disks;
    std::string passed;  // after which call the promise was first broken; empty: it holds
  };

  // After which call of which life the promise was first broken; empty: it holds.
  static std::string broken(const MemoryRules& rules, uint64_t lives) {
    constexpr int steps = 200;
    const uint64_t first_seed = random_seed();
    for (uint64_t seed = first_seed; seed < first_seed + lives; ++seed) {
      Life life(rules, seed);
      for (int i = 0; i < steps; ++i) {
        life.step();
        if (!life.passed.empty()) return "seed " + std::to_string(seed) + ": " + life.passed;
      }
    }
    return {};
  }
};

TEST_P(PromiseTest, NoChangeOfAnyDiskPassesTheLimit) {
  EXPECT_EQ(broken(GetParam().rules(), environment_number("LIMAQUOTA_LIVES", 50)), "");
}

TEST_P(PromiseTest, NorWhereEveryBlockIsAnExtent) {
  MemoryRules rules = GetParam().rules();
  rules.scatters = true;
  EXPECT_EQ(broken(rules, environment_number("LIMAQUOTA_LIVES", 50)), "");
}

// What these tests would see: a filesystem that takes more, late or at once, than the daemon knows of it.
TEST(PromiseSeenTest, ABlockOfMetadataForEachExtent) {
  MemoryRules rules = MemoryRules::ext4();
  rules.leaf_extents = 2;
  rules.scatters = true;
  EXPECT_NE(PromiseTest::broken(rules, 50), "");
}

TEST(PromiseSeenTest, PreallocationWhereThereIsNone) {
  MemoryRules rules = MemoryRules::ext4();
  rules.preallocates = true;
  EXPECT_NE(PromiseTest::broken(rules, 50), "");
}

TEST(PromiseSeenTest, CopiesInLargerUnits) {
  MemoryRules rules = MemoryRules::xfs();
  rules.copied_blocks = 128;
  EXPECT_NE(PromiseTest::broken(rules, 200), "");
}

// A limit that nothing is near does not refuse anything.
TEST_P(PromiseTest, FarFromTheLimitNothingIsRefused) {
  SeamHome home(GetParam().rules());
  home.set_limit(1_GiB);
  SeamHome::File disk = home.disk("disk");
  const std::vector<char> data(64 * 1024, 'x');
  for (uint64_t at = 0; at < 4 << 20; at += 3 * data.size()) {
    const auto written = home.metering.io.write(*disk.inode, disk.fd.get(), data.data(), data.size(), at);
    ASSERT_TRUE(written);
    ASSERT_EQ(*written, data.size());
  }
}

INSTANTIATE_TEST_SUITE_P(On, PromiseTest,
                         testing::Values(NamedRules{"ext4", MemoryRules::ext4},
                                         NamedRules{"xfs", MemoryRules::xfs},
                                         NamedRules{"btrfs", MemoryRules::btrfs},
                                         NamedRules{"tmpfs", MemoryRules::tmpfs}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace limaquota
