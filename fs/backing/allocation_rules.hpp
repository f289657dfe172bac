// How a filesystem allocates: all that the rest of fs/ knows of the one below, as one value without its name.
//
// The defaults are for a filesystem that we do not know: the worst of what the known ones do, rule by rule.
#pragma once

#include <algorithm>
#include <cstdint>

#include "accounting/bytes.hpp"
#include "accounting/slack.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {

// Where the names in a directory are kept.
enum class DirectorySpace : uint8_t {
  unblocked,        // in no blocks that are counted: a new name never allocates
  blocks,           // in blocks of its own, the first of them always there
  inode_or_blocks,  // in its inode, as long as they are few
};

// Thread safety: a value type.
struct AllocationRules {
  // --- units, in bytes ---
  uint64_t block = 4096;         // what the allocation map counts in
  uint64_t unit = 4096;          // what one allocation takes at least: a cluster of bigalloc, a huge page
  uint64_t least_copied = 0;     // what copying one shared block allocates at least; 0: that block
  Bytes name_space;              // what an operation on names or attributes may allocate in an account
  bool values_in_blocks = true;  // and besides the value of an attribute
  SlackModel slack;              // what it may allocate late

  // --- writing ---
  bool overwrites_in_place = false;  // over a block that is written and not shared: allocates nothing
  bool shares_blocks = false;        // copy_file_range makes two files share them
  bool zeroes_ranges = true;         // knows FALLOC_FL_ZERO_RANGE as we need it
  bool keeps_unwritten = true;       // what fallocate allocates is a kind of extent, which a write may split
  bool has_hints = false;            // Sys::extent_hints says something of a file
  bool may_map_blocks_singly = false;  // where the hints say that a file has no extents
  bool may_hold_data_in_inode = false;

  // --- past the end of a file that grows ---
  // It allocates up to twice a file's size there, between these bounds, and drops that when it likes: what
  // lies there is no file's own unless fallocate asked for it. 0 at most: it does not.
  Bytes least_preallocation;
  Bytes most_preallocation;

  // --- st_blocks and f_bavail ---
  bool counts_at_once = false;        // st_blocks is final when the system call returns
  bool gives_back_by_itself = false;  // it may take down st_blocks when memory is short (huge pages)
  bool free_space_lags = false;       // f_bavail leaves out what is not written back
  DirectorySpace directories = DirectorySpace::blocks;

  bool preallocates() const { return most_preallocation > Bytes(0); }
  // Whether it allocates anything late.
  bool is_late() const { return slack.leaf_capacity > 0; }
  // Whether copying a shared block allocates more than that block.
  bool copies_more() const { return least_copied > 0; }

  // What one allocation of the file takes at least.
  uint64_t unit_for(const ExtentHints& file) const { return std::max(unit, file.extent_size); }
  // What copying one shared block of the file may allocate.
  uint64_t copied_for(const ExtentHints& file) const {
    return copies_more() ? std::max(file.cow_extent_size, least_copied) : block;
  }
  // At most what it allocates past a write that ends at `end`, beyond the file's end: twice the extent before
  // the write, which is no longer than the file.
  Bytes preallocation(uint64_t end) const {
    if (!preallocates()) return Bytes(0);
    return std::min(std::max(Bytes(end) * 2, least_preallocation), most_preallocation);
  }
};

}  // namespace limaquota
