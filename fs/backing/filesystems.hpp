// The filesystems that are known by name. Another one is a source beside these with its rules, and a line in
// `rules_of`; what it does that none of these does becomes a field of AllocationRules.
#pragma once

#include <sys/vfs.h>

#include <string_view>

#include "fs/backing/allocation_rules.hpp"

namespace limaquota {

// The rules of the filesystem that statfs(2) told of. `mount_options` are its own, as in mountinfo.
AllocationRules rules_of(const struct statfs& fs, std::string_view mount_options);

// --- what rules_of asks; `block` is the filesystem's block in bytes ---
AllocationRules ext4_rules(const struct statfs& fs, uint64_t block);
AllocationRules xfs_rules(uint64_t block, std::string_view mount_options);
AllocationRules btrfs_rules(uint64_t block);
AllocationRules tmpfs_rules(uint64_t block, std::string_view mount_options);
AllocationRules unknown_rules(uint64_t block);

// What names and attributes may take where they lie in blocks: directory blocks, their tree, an inherited ACL
// and a new file's first block, under 16 blocks on every filesystem; with bigalloc, clusters.
Bytes name_space_in_blocks(uint64_t block, uint64_t unit);
// The value of `name=` among comma separated options, or nothing.
std::string_view option_value(std::string_view options, std::string_view name);

}  // namespace limaquota
