#include "accounting/slack.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace limaquota {
namespace {

// A B-tree of extents, slow and obvious, that counts its blocks: an insertion into a full block splits it, in
// halves, or, where it is a leaf of ext4, at the insertion. Up to four records lie in the inode. It is the
// worst that a filesystem does: leaves of XFS that fill at the end are split in halves too, and nothing is
// ever moved to a neighbour.
class Tree {
 public:
  Tree(uint64_t leaf_capacity, uint64_t node_capacity, bool at_insertion)
      : capacities_{leaf_capacity, node_capacity}, at_insertion_(at_insertion) {}

  void insert(uint64_t key) {
    ++records_;
    const bool was_inline = levels_.empty();
    if (was_inline) levels_.push_back({{}});
    auto& leaves = levels_[0];
    const size_t at = find(leaves, key);
    const auto place = std::upper_bound(leaves[at].begin(), leaves[at].end(), key);
    const auto index = place - leaves[at].begin();
    leaves[at].insert(place, key);
    if (leaves[at].size() <= capacities_[0]) return;
    // What is after the new one goes to a leaf of its own; the new one itself where nothing is.
    const auto last = static_cast<std::ptrdiff_t>(leaves[at].size()) - 1;
    split(0, at,
          at_insertion_ ? std::min(index + 1, last) : static_cast<std::ptrdiff_t>(leaves[at].size() / 2));
  }
  uint64_t blocks() const {
    if (records_ <= 4) return 0;
    uint64_t sum = 0;
    for (const auto& level : levels_) sum += level.size();
    return sum;
  }
  uint64_t records() const { return records_; }
  uint64_t leaves() const { return levels_.empty() ? 0 : levels_[0].size(); }
  uint64_t first_of_leaf(uint64_t leaf) const { return levels_[0][leaf].front(); }

 private:
  using Block = std::vector<uint64_t>;  // keys: the records, or the first key of each child

  static size_t find(const std::vector<Block>& blocks, uint64_t key) {
    const auto after =
        std::upper_bound(blocks.begin(), blocks.end(), key,
                         [](uint64_t k, const Block& block) { return block.empty() || k < block.front(); });
    return after == blocks.begin() ? 0 : static_cast<size_t>(after - blocks.begin()) - 1;
  }

  void split(size_t level, size_t at, std::ptrdiff_t place) {
    Block& full = levels_[level][at];
    const auto middle = full.begin() + place;
    const Block upper(middle, full.end());
    full.erase(middle, full.end());
    levels_[level].insert(levels_[level].begin() + static_cast<std::ptrdiff_t>(at) + 1, upper);
    if (levels_.size() == level + 1) {
      if (levels_[level].size() <= 4) return;  // the root lies in the inode
      Block root;
      for (const Block& block : levels_[level]) root.push_back(block.front());
      levels_.push_back({root});
      return;
    }
    auto& parents = levels_[level + 1];
    const size_t parent = find(parents, upper.front());
    parents[parent].insert(std::upper_bound(parents[parent].begin(), parents[parent].end(), upper.front()),
                           upper.front());
    if (parents[parent].size() > capacities_[1])
      split(level + 1, parent, static_cast<std::ptrdiff_t>(parents[parent].size() / 2));
  }

  const uint64_t capacities_[2];
  const bool at_insertion_;
  uint64_t records_ = 0;
  std::vector<std::vector<Block>> levels_;  // leaves first
};

struct Backing {
  std::string name;
  SlackModel model;
  uint64_t node_capacity;
};

// XFS's nodes hold a key and a pointer of 8 bytes each; ext4's hold 12 bytes, as its leaves.
std::vector<Backing> backings() {
  return {{"ext4_4k", SlackModel::ext4(4096), (4096 - 12) / 12},
          {"ext4_1k", SlackModel::ext4(1024), (1024 - 12) / 12},
          {"xfs_4k", SlackModel::xfs(4096), (4096 - 72) / 16},
          {"xfs_1k", SlackModel::xfs(1024), (1024 - 72) / 16}};
}

class Slack : public ::testing::TestWithParam<Backing> {
 protected:
  const SlackModel& model() const { return GetParam().model; }
  Tree tree() const {
    return Tree(model().leaf_capacity, GetParam().node_capacity, model().splits_at_insertion);
  }
  // Inserts `extents` keys into a tree, and looks after each whether the bound held from where it stood
  // before them.
  void expect_bound(Tree& tree, uint64_t extents, const std::function<uint64_t(uint64_t)>& key) {
    const uint64_t blocks = tree.blocks();
    const uint64_t present = tree.records();
    for (uint64_t i = 1; i <= extents; ++i) {
      tree.insert(key(i));
      const uint64_t grown = (tree.blocks() - blocks) * model().block;
      ASSERT_GE(model().late(i, present).count(), grown) << i << " more than " << present;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(On, Slack, ::testing::ValuesIn(backings()),
                         [](const auto& test) { return test.param.name; });

constexpr uint64_t many = 40000;
constexpr uint64_t far = uint64_t{1} << 40;

TEST_P(Slack, CoversGrowthInAnyOrder) {
  std::mt19937_64 random(1);
  const std::vector<std::function<uint64_t(uint64_t)>> orders = {
      [](uint64_t i) { return i; }, [](uint64_t i) { return far - i; },
      [](uint64_t i) { return i % 2 == 0 ? i : far - i; }, [&](uint64_t) { return random() % far; },
      // Always the middle, so that both halves stay half full.
      [](uint64_t i) { return i % 2 == 0 ? far / 2 - i : far / 2 + i; }};
  for (const auto& order : orders) {
    Tree fresh = tree();
    expect_bound(fresh, many, order);
    expect_bound(fresh, many / 4, order);
  }
}

// As files are written back: pass after pass in ascending order, each in the gaps of those before.
TEST_P(Slack, CoversAscendingPassesThroughTheGaps) {
  constexpr uint64_t gap = 1024;
  for (const uint64_t present : {300, 7000, 20000}) {
    for (const uint64_t in_each_gap : {1, 2, 8, 100}) {
      Tree some = tree();
      for (uint64_t i = 0; i < present; ++i) some.insert(i * gap);
      const uint64_t extents = std::min(in_each_gap * present, many);
      // All gaps alike, then as many as it takes to use up the first ones.
      expect_bound(some, extents, [&](uint64_t i) {
        return (i - 1) / in_each_gap * gap + ((i - 1) % in_each_gap + 1) * (gap / 2 / in_each_gap);
      });
      expect_bound(some, extents / 2, [&](uint64_t i) {
        return (i - 1) / in_each_gap * gap + gap / 2 + ((i - 1) % in_each_gap + 1) * (gap / 4 / in_each_gap);
      });
    }
  }
}

TEST_P(Slack, CoversSplittingEveryFullLeafAtOnce) {
  for (const uint64_t leaves : {1, 5, 100, 300}) {
    Tree full = tree();
    // Each new leaf is the upper half of a full one: descending insertion fills it up to the brim.
    const uint64_t half = model().leaf_capacity / 2;
    for (uint64_t i = 0; i < leaves * half + half; ++i) full.insert(far + i * 16);
    std::vector<uint64_t> firsts;
    for (uint64_t leaf = 0; leaf < full.leaves(); ++leaf) firsts.push_back(full.first_of_leaf(leaf));
    for (const uint64_t first : firsts) {
      for (uint64_t i = 1; i <= half - 1; ++i) full.insert(first + i % 15 + 1);
    }
    expect_bound(full, firsts.size() * 3, [&](uint64_t i) { return firsts[i % firsts.size()] + 1; });
  }
}

TEST_P(Slack, CoversRandomBurstsOnRandomTrees) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 30; ++round) {
    Tree some = tree();
    const uint64_t near = 1 + random() % far;
    const uint64_t present = random() % 20000;
    for (uint64_t i = 0; i < present; ++i) some.insert(random() % near);
    const uint64_t at = random() % near;
    const uint64_t width = 1 + random() % near;
    expect_bound(some, 1 + random() % 5000, [&](uint64_t) { return at + random() % width; });
  }
}

TEST_P(Slack, GrowsWithTheExtentsAndWithThoseThere) {
  for (uint64_t extents = 1; extents < 5000; extents += 7) {
    EXPECT_LE(model().late(extents, 100), model().late(extents + 1, 100));
    EXPECT_LE(model().late(extents, 100), model().late(extents, 10000));
  }
}

// What a badly fragmenting writer gets of its limit: 4 KiB blocks, each an extent (P3: within 2 %).
TEST(SlackOf4KiBBlocks, IsUnder2PercentForABadlyFragmentingWriter) {
  constexpr uint64_t extents = 262144;  // 1 GiB
  for (const SlackModel& model : {SlackModel::ext4(4096), SlackModel::xfs(4096)}) {
    EXPECT_LT(model.late(extents, 0).count(), (extents * 4096) / 50);
    // And with all of them present, a burst of 64 more needs little.
    EXPECT_LT(model.late(64, extents).count(), (extents * 4096) / 50);
  }
}

TEST(SlackInTheInode, IsForExt4FilesOfAtMostFourBlocks) {
  for (const uint64_t block : {1024, 4096}) {
    EXPECT_TRUE(SlackModel::ext4(block).in_inode(Bytes(0)));
    EXPECT_TRUE(SlackModel::ext4(block).in_inode(Bytes(4 * block)));
    EXPECT_FALSE(SlackModel::ext4(block).in_inode(Bytes(4 * block + 512)));
    EXPECT_FALSE(SlackModel::xfs(block).in_inode(Bytes(block)));
  }
}

TEST(SlackNone, IsNothing) {
  EXPECT_EQ(SlackModel::none().late(1'000'000, 1'000'000), Bytes(0));
  EXPECT_EQ(SlackModel::ext4(4096).late(0, 1'000'000), Bytes(0));
}

}  // namespace
}  // namespace limaquota
