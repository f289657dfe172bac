#include "fs/backing/filesystems.hpp"

#include <linux/magic.h>

#include <algorithm>

namespace limaquota {
namespace {
constexpr long xfs_magic = 0x58465342;  // XFS_SB_MAGIC, which linux/magic.h leaves out
}  // namespace

AllocationRules rules_of(const struct statfs& fs, std::string_view mount_options) {
  const uint64_t block = std::max<uint64_t>(512, static_cast<uint64_t>(fs.f_bsize));
  switch (fs.f_type) {
    case EXT4_SUPER_MAGIC:
      return ext4_rules(fs, block);
    case xfs_magic:
      return xfs_rules(block, mount_options);
    case BTRFS_SUPER_MAGIC:
      return btrfs_rules(block);
    case TMPFS_MAGIC:
      return tmpfs_rules(block, mount_options);
    default:
      return unknown_rules(block);
  }
}

AllocationRules unknown_rules(uint64_t block) {
  AllocationRules rules;
  rules.block = block;
  rules.unit = block;
  rules.slack = SlackModel::xfs(block);  // the largest of those we know
  rules.name_space = name_space_in_blocks(block, block);
  return rules;
}

Bytes name_space_in_blocks(uint64_t block, uint64_t unit) {
  return std::max(Bytes(16 * block), Bytes(unit == block ? 0 : 4 * unit));
}

std::string_view option_value(std::string_view options, std::string_view name) {
  while (!options.empty()) {
    const size_t comma = options.find(',');
    const std::string_view option = options.substr(0, comma);
    if (option.size() > name.size() && option.starts_with(name) && option[name.size()] == '=') {
      return option.substr(name.size() + 1);
    }
    options = comma == std::string_view::npos ? std::string_view() : options.substr(comma + 1);
  }
  return {};
}

}  // namespace limaquota
