// Slack: what a backing filesystem may still allocate, later, for changes already made to one file.
//
// ext4 and XFS keep a file's extents in a B-tree of metadata blocks that are allocated when delayed data or
// converted unwritten extents reach the disk, long after the write was answered. An insertion into a full
// leaf splits it, and both halves are half full: so e more extents need at most
//     min(e, leaves there are) + e / (half a leaf's capacity) + one block a level
// more blocks, whatever their order (each existing leaf may be full and split at once; every further split
// needs half a leaf of insertions). Node blocks are one in a hundred leaves and lie in the per-level part and
// a 2 % supplement. Formats: ext4 Documentation/filesystems/ext4/ifork.rst (12-byte entries, 12-byte header),
// XFS Filesystem Structure, chapter "Data Extents" (16-byte records, 72-byte header).
//
// A file of few blocks needs none of them: ext4 keeps up to four extents in the inode itself (ifork.rst: 60
// bytes, a header and entries of 12 each), and a file has no more extents than blocks. Its st_blocks counts
// delayed blocks too, so that holds whatever is still to be written. Not for a file that maps its blocks in
// the old way, without extents: one block far into it needs up to three more.
#pragma once

#include <algorithm>
#include <cstdint>

#include "accounting/bytes.hpp"

namespace limaquota {

// Of one backing filesystem. Thread safety: a value type.
struct SlackModel {
  uint64_t block = 4096;       // bytes of a metadata block
  uint64_t leaf_capacity = 0;  // extents in a leaf; 0: this filesystem counts everything at once
  uint64_t levels = 5;
  uint64_t inode_extents = 0;  // extents that the inode itself has room for; 0: not counted on

  static SlackModel ext4(uint64_t block) { return {block, (block - 12) / 12, 5, 4}; }
  static SlackModel xfs(uint64_t block) { return {block, (block - 72) / 16, 5, 0}; }
  static SlackModel none() { return {4096, 0, 0, 0}; }

  // Whether a file with so much allocated has all its extents in the inode, however they lie.
  bool in_inode(Bytes allocated) const { return allocated <= Bytes(inode_extents * block); }

  // At most what `extents` more extents may need in a file that has at most `present` ones.
  Bytes late(uint64_t extents, uint64_t present) const {
    if (leaf_capacity == 0 || extents == 0) return Bytes(0);
    const uint64_t half = leaf_capacity / 2;
    const uint64_t leaves = present / half + 1;
    const uint64_t blocks = std::min(extents, leaves) + extents / half + 1;
    return Bytes(block) * (blocks + blocks / 50 + levels);
  }
};

}  // namespace limaquota
