// Slack: what a backing filesystem may still allocate, later, for changes already made to one file.
//
// ext4 and XFS keep a file's extents in a B-tree of metadata blocks that are allocated when delayed data or
// converted unwritten extents reach the disk, long after the write was answered. On XFS an insertion into a
// full leaf splits it, and both halves are half full: so e more extents need at most
//     min(e, leaves there are) + e / (half a leaf's capacity) + one block a level
// more blocks, whatever their order (each existing leaf may be full and split at once; every further split
// needs half a leaf of insertions). Node blocks are one in a hundred leaves and lie in the per-level part and
// a supplement of 4 %. Formats: ext4 Documentation/filesystems/ext4/ifork.rst (12-byte entries, 12-byte
// header), XFS Filesystem Structure, chapter "Data Extents" (16-byte records, 72-byte header).
//
// ext4 splits a leaf at the insertion (ext4_ext_split): what is after it goes to the new leaf. Written back
// in ascending order, a split that leaves k extents behind makes room for k more in what comes after it, so
// the s-th split of what was one full leaf takes at least s insertions more: m of them split it sqrt(2 m)
// times. Over all leaves that is most where each has the same share: sqrt(2 e * leaves). And in no order that
// was tried (tests/unit) does a further split take less than a quarter of a leaf of insertions.
//
// A file of few blocks needs none of them: ext4 keeps up to four extents in the inode itself (ifork.rst: 60
// bytes, a header and entries of 12 each), and a file has no more extents than blocks. Its st_blocks counts
// delayed blocks too, so that holds whatever is still to be written. Not for a file that maps its blocks in
// the old way, without extents: one block far into it needs up to three more, and each further one up to two
// (ext4 Documentation/filesystems/ext4/blockmap.rst).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "accounting/bytes.hpp"

namespace limaquota {

// Of one backing filesystem. Thread safety: a value type.
struct SlackModel {
  uint64_t block = 4096;       // bytes of a metadata block
  uint64_t leaf_capacity = 0;  // extents in a leaf; 0: this filesystem counts everything at once
  uint64_t levels = 5;
  uint64_t inode_extents = 0;  // extents that the inode itself has room for; 0: not counted on
  bool splits_at_insertion = false;
  uint64_t unit = 4096;  // bytes that a metadata block takes: with bigalloc, a cluster

  static SlackModel ext4(uint64_t block) { return {block, (block - 12) / 12, 5, 4, true, block}; }
  static SlackModel xfs(uint64_t block) { return {block, (block - 72) / 16, 5, 0, false, block}; }
  static SlackModel none() { return {4096, 0, 0, 0, false, 4096}; }

  // Whether a file with so much allocated has all its extents in the inode, however they lie.
  bool in_inode(Bytes allocated) const { return allocated <= Bytes(inode_extents * block); }

  // At most what `extents` more extents may need in a file that has at most `present` ones.
  Bytes late(uint64_t extents, uint64_t present) const {
    if (leaf_capacity == 0 || extents == 0) return Bytes(0);
    const uint64_t half = leaf_capacity / 2;
    const uint64_t leaves = present / half + 1;
    const double ascending =
        std::ceil(std::sqrt(2.0 * static_cast<double>(extents) * static_cast<double>(leaves)));
    const uint64_t at_once = leaves + (splits_at_insertion ? static_cast<uint64_t>(ascending) : 0);
    const uint64_t further = leaf_capacity / (splits_at_insertion ? 4 : 2);
    const uint64_t blocks = std::min(extents, at_once) + extents / further + 1;
    return Bytes(unit) * (blocks + blocks / 25 + levels);
  }

  // The same for a file that maps its blocks without extents, each of which is a block at least.
  Bytes late_without_extents(uint64_t blocks) const {
    return blocks == 0 ? Bytes(0) : Bytes(unit) * (2 * blocks + 3);
  }
};

}  // namespace limaquota
