// btrfs: everything is copied when it is written, and metadata belongs to no file.
#include "fs/backing/filesystems.hpp"

namespace limaquota {

AllocationRules btrfs_rules(uint64_t block) {
  AllocationRules rules;
  rules.block = block;
  rules.unit = block;
  rules.slack = SlackModel::none();
  rules.name_space = name_space_in_blocks(block, block);
  rules.shares_blocks = true;
  rules.keeps_unwritten = false;
  rules.free_space_lags = true;
  rules.directories = DirectorySpace::unblocked;
  return rules;
}

}  // namespace limaquota
