// XFS. Formats: "XFS Filesystem Structure" of xfs-documentation; behaviour: fs/xfs/xfs_iomap.c of the Linux
// kernel.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "fs/backing/filesystems.hpp"

namespace limaquota {
namespace {
// It never preallocates more than its longest extent, 2^21 - 1 blocks (xfs_iomap_prealloc_size), and at least
// twice the mount's allocsize, 64 KiB unless set; all that the option says, behind the smallest file.
constexpr uint64_t longest_extent_blocks = (uint64_t{1} << 21) - 1;
constexpr Bytes default_allocsize = 64_KiB;
constexpr uint64_t default_cow_blocks = 32;  // XFS_DEFAULT_COWEXTSZ_HINT
}  // namespace

AllocationRules xfs_rules(uint64_t block, std::string_view mount_options) {
  AllocationRules rules;
  rules.block = block;
  rules.unit = block;
  rules.least_copied = default_cow_blocks * block;
  rules.slack = SlackModel::xfs(block);
  rules.name_space = name_space_in_blocks(block, block);
  rules.overwrites_in_place = true;
  rules.shares_blocks = true;
  rules.has_hints = true;
  const std::string allocsize(option_value(mount_options, "allocsize"));  // in KiB
  const Bytes set(allocsize.empty() ? 0 : std::strtoull(allocsize.c_str(), nullptr, 10) * 1024);
  rules.least_preallocation = std::max(default_allocsize * 2, set);
  rules.most_preallocation = std::max(Bytes(longest_extent_blocks * block), set);
  rules.directories = DirectorySpace::inode_or_blocks;
  return rules;
}

}  // namespace limaquota
