// ext4. Formats: Documentation/filesystems/ext4 of the Linux kernel.
#include <algorithm>

#include "fs/backing/filesystems.hpp"

namespace limaquota {
namespace {

// With bigalloc, free space is counted in whole clusters: the kernel scales block counts by the ratio, so all
// of them are multiples of it. The largest power of two that divides them bounds the cluster; a plain
// filesystem is told apart by its odd counts, and by 16 being the default ratio of mkfs.
uint64_t cluster_of(const struct statfs& fs, uint64_t block) {
  const uint64_t all = static_cast<uint64_t>(fs.f_bfree) | static_cast<uint64_t>(fs.f_bavail);
  if (all == 0) return block;
  const uint64_t ratio = all & (~all + 1);
  return ratio >= 16 ? block * std::min<uint64_t>(ratio, 256) : block;
}

}  // namespace

AllocationRules ext4_rules(const struct statfs& fs, uint64_t block) {
  AllocationRules rules;
  rules.block = block;
  rules.unit = cluster_of(fs, block);
  rules.slack = SlackModel::ext4(block);
  rules.slack.unit = rules.unit;
  rules.name_space = name_space_in_blocks(block, rules.unit);
  rules.overwrites_in_place = true;
  rules.has_hints = true;
  rules.may_map_blocks_singly = true;
  rules.may_hold_data_in_inode = true;
  return rules;
}

}  // namespace limaquota
