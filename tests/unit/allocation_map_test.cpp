#include "accounting/allocation_map.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <vector>

namespace limaquota {
namespace {

constexpr uint64_t chunk = AllocationMap::chunk_blocks;

Result<void> no_fill(BlockRange, const AllocationMap::Sink&) {
  ADD_FAILURE() << "a known chunk was filled again";
  return {};
}

Result<void> all_holes(BlockRange, const AllocationMap::Sink&) { return {}; }

// The backing filesystem as the map's obvious model: one state for each block, and a record of when each
// chunk grew.
class Model {
 public:
  explicit Model(uint64_t blocks) : blocks_(blocks, BlockState::hole), grown_(blocks / chunk + 1, 0) {}

  void set(BlockRange range, BlockState state, uint32_t now, bool known) {
    for (uint64_t block = range.first; block < range.end(); ++block) {
      // The map cannot see which blocks of an unknown chunk were holes: any allocation counts as growth.
      const bool grows = state != BlockState::hole && (!known || blocks_[block] == BlockState::hole);
      if (grows) grown_[block / chunk] = now;
      blocks_[block] = state;
    }
  }

  void truncate(uint64_t from) {
    std::fill(blocks_.begin() + from, blocks_.end(), BlockState::hole);
    std::fill(grown_.begin() + (from + chunk - 1) / chunk, grown_.end(), 0);
  }

  BlockCounts count(BlockRange range) const {
    BlockCounts counts;
    for (uint64_t block = range.first; block < range.end(); ++block) {
      if (blocks_[block] == BlockState::hole) ++counts.hole;
      if (blocks_[block] == BlockState::unwritten) ++counts.unwritten;
      if (blocks_[block] == BlockState::written) ++counts.written;
    }
    return counts;
  }

  std::vector<std::pair<BlockRange, BlockState>> runs(BlockRange range) const {
    std::vector<std::pair<BlockRange, BlockState>> result;
    for (uint64_t block = range.first; block < range.end(); ++block) {
      if (result.empty() || result.back().second != blocks_[block]) {
        result.push_back({{block, 0}, blocks_[block]});
      }
      ++result.back().first.count;
    }
    return result;
  }

  // Gives runs that stick out of the range too, as FIEMAP does.
  Result<void> fill(BlockRange range, const AllocationMap::Sink& sink) const {
    const uint64_t first = range.first - std::min<uint64_t>(range.first, 100);
    const uint64_t end = std::min<uint64_t>(range.end() + 100, blocks_.size());
    for (const auto& [run, state] : runs({first, end > first ? end - first : 0})) {
      if (state != BlockState::hole) sink(run, state);
    }
    return {};
  }

  uint32_t grown_at(uint64_t index) const { return grown_[index]; }

 private:
  std::vector<BlockState> blocks_;
  std::vector<uint32_t> grown_;
};

class RandomOperations {
 public:
  explicit RandomOperations(uint64_t seed) : random_(seed), model_(blocks), known_(blocks / chunk, false) {}

  void step(uint32_t now) {
    const BlockRange range = random_range();
    switch (random_() % 10) {
      case 0:
        forget(range);
        break;
      case 1:
        if (random_() % 8 == 0) truncate(range.first);
        break;
      case 2:
        check_runs(range);
        break;
      case 3:
      case 4:
      case 5:
        check_count(range);
        break;
      default:
        set(range, static_cast<BlockState>(random_() % 3), now);
    }
    const uint64_t index = random_() % (blocks / chunk);
    ASSERT_EQ(map_.grown_at(index), model_.grown_at(index));
  }

 private:
  static constexpr uint64_t blocks = 70 * chunk;  // more than one group

  BlockRange random_range() {
    static constexpr uint64_t lengths[] = {1, 8, 64, 256, chunk, 3 * chunk, blocks};
    uint64_t first = random_() % blocks;
    uint64_t count = 1 + random_() % lengths[random_() % std::size(lengths)];
    if (random_() % 4 == 0) first -= first % chunk;
    if (random_() % 4 == 0) count += chunk - count % chunk;
    // Most operations meet in a few chunks, so that these get into every shape.
    if (random_() % 4 != 0) first %= 3 * chunk;
    return {first, std::min(count, blocks - first)};
  }

  AllocationMap::Fill fill() {
    return [this](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
      EXPECT_FALSE(known_[range.first / chunk]) << "a known chunk was filled again";
      EXPECT_EQ(range.first % chunk, 0u);
      EXPECT_EQ(range.count, chunk);
      const Result<void> done = model_.fill(range, sink);
      if (random_() % 16 == 0) return Errno{EIO};
      known_[range.first / chunk] = true;
      return done;
    };
  }

  bool all_known(BlockRange range) const {
    for (uint64_t index = range.first / chunk; index * chunk < range.end(); ++index) {
      if (!known_[index]) return false;
    }
    return true;
  }

  void set(BlockRange range, BlockState state, uint32_t now) {
    map_.set(range, state, now);
    // A hole of more than a group leaves unknown what was never touched.
    const bool whole_is_known = state != BlockState::hole || range.count <= 64 * chunk;
    for (uint64_t at = range.first; at < range.end();) {
      const uint64_t index = at / chunk;
      const uint64_t end = std::min(range.end(), (index + 1) * chunk);
      model_.set({at, end - at}, state, now, known_[index]);
      if (end - at == chunk && whole_is_known) known_[index] = true;
      if (!known_[index]) map_.forget({at, 1});
      at = end;
    }
  }

  void forget_known(BlockRange range) {
    for (uint64_t index = range.first / chunk; index * chunk < range.end(); ++index) known_[index] = false;
  }

  void forget(BlockRange range) {
    map_.forget(range);
    forget_known(range);
  }

  void truncate(uint64_t from) {
    map_.truncate(from);
    model_.truncate(from);
    forget_known({from, blocks - from});
  }

  void check_count(BlockRange range) {
    const bool written = map_.known_written(range);
    const Result<BlockCounts> counts = map_.count(range, fill());
    if (counts) {
      ASSERT_EQ(*counts, model_.count(range));
      ASSERT_TRUE(!written || counts->written == range.count);
      ASSERT_EQ(map_.known_written(range), counts->written == range.count);
      ASSERT_TRUE(all_known(range));
    } else {
      ASSERT_EQ(counts.error(), Errno{EIO});
      ASSERT_FALSE(written);
      ASSERT_FALSE(all_known(range)) << "an error of fill leaves the chunk unknown";
    }
  }

  void check_runs(BlockRange range) {
    std::vector<std::pair<BlockRange, BlockState>> seen;
    const auto sink = [&](BlockRange run, BlockState state) { seen.push_back({run, state}); };
    const Result<void> done = map_.runs(range, fill(), sink);
    if (done) {
      ASSERT_EQ(seen, model_.runs(range));
    } else {
      ASSERT_TRUE(seen.empty());
    }
  }

  std::mt19937_64 random_;
  Model model_;
  std::vector<bool> known_;  // chunks that the map must know
  AllocationMap map_;
};

TEST(AllocationMap, AgreesWithTheModel) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    RandomOperations operations(seed);
    for (uint32_t now = 1; now <= 2000; ++now) {
      operations.step(now);
      if (testing::Test::HasFailure()) FAIL() << "seed " << seed << ", operation " << now;
    }
  }
}

TEST(AllocationMap, IsEmptyUntilAsked) {
  AllocationMap map;
  EXPECT_LT(map.memory_bytes(), 100u);
  map.set({0, 10}, BlockState::hole, 1);
  map.forget({0, 1ULL << 50});
  map.truncate(0);
  EXPECT_EQ(map.grown_at(5), 0u);
}

TEST(AllocationMap, FillsAChunkOnce) {
  AllocationMap map;
  int fills = 0;
  const AllocationMap::Fill fill = [&](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    ++fills;
    sink({range.first + 10, 20}, BlockState::written);
    sink({range.first + 30, 5}, BlockState::unwritten);
    return {};
  };
  EXPECT_EQ(*map.count({0, 40}, fill), (BlockCounts{15, 5, 20}));
  EXPECT_EQ(*map.count({chunk - 10, 10}, fill), (BlockCounts{10, 0, 0}));
  EXPECT_EQ(fills, 1);
  EXPECT_EQ(*map.count({chunk - 10, 25}, fill), (BlockCounts{20, 0, 5}));
  EXPECT_EQ(fills, 2);
}

TEST(AllocationMap, AWrittenRunMakesAllItsChunksKnown) {
  AllocationMap map;
  map.set({3 * chunk, chunk}, BlockState::hole, 1);
  const AllocationMap::Fill fill = [](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    EXPECT_EQ(range.first, chunk);
    sink({range.first + 10, 100 * chunk}, BlockState::written);
    return {};
  };
  EXPECT_EQ(*map.count({chunk, 20}, fill), (BlockCounts{10, 0, 10}));
  EXPECT_EQ(*map.count({2 * chunk, 99 * chunk}, no_fill), (BlockCounts{chunk, 0, 98 * chunk}))
      << "one was known";
  EXPECT_FALSE(map.known_written({0, 1}));
  EXPECT_FALSE(map.known_written({101 * chunk, 1})) << "in part is not enough";
  EXPECT_EQ(*map.count({101 * chunk, 1}, all_holes), (BlockCounts{1, 0, 0}));
  EXPECT_EQ(map.grown_at(50), 0u);
}

TEST(AllocationMap, OfUnwrittenRunsOnlyTheChunkIsKnown) {
  AllocationMap map;
  const AllocationMap::Fill fill = [](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    sink({range.first, 10 * chunk}, BlockState::unwritten);
    return {};
  };
  EXPECT_EQ(*map.count({0, 1}, fill), (BlockCounts{0, 1, 0}));
  EXPECT_EQ(*map.count({chunk, 1}, all_holes), (BlockCounts{1, 0, 0}));
}

TEST(AllocationMap, AnErrorOfFillLeavesTheChunkUnknown) {
  AllocationMap map;
  const AllocationMap::Fill fails = [](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    sink(range, BlockState::written);
    return Errno{EIO};
  };
  EXPECT_EQ(map.count({0, 1}, fails).error(), Errno{EIO});
  EXPECT_EQ(*map.count({0, 1}, all_holes), (BlockCounts{1, 0, 0}));
}

TEST(AllocationMap, AnUnknownChunkIsKnownOnceSetAsAWhole) {
  AllocationMap map;
  map.set({0, chunk - 1}, BlockState::written, 7);
  EXPECT_EQ(*map.count({0, 1}, all_holes), (BlockCounts{1, 0, 0})) << "in part is not enough";
  map.set({0, 3 * chunk}, BlockState::unwritten, 8);
  EXPECT_EQ(*map.count({0, 3 * chunk}, no_fill), (BlockCounts{0, 3 * chunk, 0}));
}

TEST(AllocationMap, RemembersWhenAChunkGrew) {
  AllocationMap map;
  map.set({3, 1}, BlockState::written, 5);
  EXPECT_EQ(map.grown_at(0), 5u) << "an unknown chunk";
  map.set({0, chunk}, BlockState::written, 6);
  map.set({0, 100}, BlockState::unwritten, 7);
  map.set({0, 100}, BlockState::hole, 8);
  EXPECT_EQ(map.grown_at(0), 6u) << "neither a conversion nor a hole is growth";
  map.set({50, 1}, BlockState::unwritten, 9);
  EXPECT_EQ(map.grown_at(0), 9u);
  map.forget({0, 1});
  EXPECT_EQ(map.grown_at(0), 9u);
  map.truncate(1);
  EXPECT_EQ(map.grown_at(0), 9u);
  map.truncate(0);
  EXPECT_EQ(map.grown_at(0), 0u);
}

TEST(AllocationMap, RunsAreMaximalAcrossChunks) {
  AllocationMap map;
  map.set({0, 4 * chunk}, BlockState::written, 1);
  map.set({2 * chunk + 5, 1}, BlockState::unwritten, 1);
  std::vector<std::pair<BlockRange, BlockState>> seen;
  ASSERT_TRUE(map.runs({10, 4 * chunk - 20}, no_fill, [&](BlockRange run, BlockState state) {
    seen.push_back({run, state});
  }));
  const std::vector<std::pair<BlockRange, BlockState>> expected = {
      {{10, 2 * chunk - 5}, BlockState::written},
      {{2 * chunk + 5, 1}, BlockState::unwritten},
      {{2 * chunk + 6, 2 * chunk - 16}, BlockState::written}};
  EXPECT_EQ(seen, expected);
}

TEST(AllocationMap, ASparseExabyteCostsWhatItsTouchedPartsCost) {
  constexpr uint64_t far = (1ULL << 63) / 4096 - 1;
  AllocationMap map;
  EXPECT_EQ(*map.count({far, 1}, all_holes), (BlockCounts{1, 0, 0}));
  map.set({far, 1}, BlockState::written, 1);
  map.set({0, far}, BlockState::hole, 2);
  EXPECT_EQ(*map.count({far, 1}, no_fill), (BlockCounts{0, 0, 1}));
  EXPECT_LT(map.memory_bytes(), 8192u);
  map.forget({0, far});
  map.truncate(far / 2);
  EXPECT_LT(map.memory_bytes(), 200u);
}

TEST(AllocationMap, UniformChunksNeedNoBitmaps) {
  AllocationMap map;
  map.set({0, 64 * chunk}, BlockState::written, 1);
  const size_t uniform = map.memory_bytes();
  map.set({100, 5}, BlockState::hole, 1);
  map.set({200, 5}, BlockState::unwritten, 1);
  EXPECT_GT(map.memory_bytes(), uniform);
  map.set({100, 5}, BlockState::written, 1);
  map.set({200, 5}, BlockState::written, 1);
  EXPECT_EQ(map.memory_bytes(), uniform);
}

// 100 GiB in blocks of 4 KiB with 1.6 million extents, every third of them unwritten: both bitmaps in every
// chunk.
TEST(AllocationMap, HoldsAFragmented100GiBDiskIn7MiB) {
  constexpr uint64_t blocks = 100ULL * 1024 * 1024 * 1024 / 4096;
  constexpr uint64_t extents = 1'600'000;
  constexpr uint64_t spacing = blocks / extents;
  const AllocationMap::Fill fill = [](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    for (uint64_t i = range.first / spacing; i < extents && i * spacing < range.end(); ++i) {
      sink({i * spacing, 1 + i % 8}, i % 3 == 0 ? BlockState::unwritten : BlockState::written);
    }
    return {};
  };
  AllocationMap map;
  const Result<BlockCounts> counts = map.count({0, blocks}, fill);
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->written + counts->unwritten, extents * 9 / 2);
  EXPECT_LE(map.memory_bytes(), 7u * 1024 * 1024);
  for (uint64_t block = 0; block + 256 < blocks; block += 9973)
    map.set({block, 256}, BlockState::unwritten, 1);
  EXPECT_LE(map.memory_bytes(), 7u * 1024 * 1024);
}

}  // namespace
}  // namespace limaquota
