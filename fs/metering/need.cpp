#include "fs/metering/need.hpp"

#include <algorithm>

namespace limaquota {

void Needs::read_hints(Inode& inode, int fd) const {
  if (inode.hints_known) return;
  inode.hints_known = true;
  if (!backing_.rules().has_hints) return;
  inode.hints = backing_.sys().extent_hints(fd);
  if (inode.hints.preallocated) inode.preallocated_past_end = true;
}

AllocationMap::Fill Needs::fill_of(Inode& inode, int fd) const {
  read_hints(inode, fd);
  const bool stays = !backing_.rules().preallocates() || inode.preallocated_past_end;
  return backing_.fill_from(fd, inode.size, stays ? PastEnd::stays : PastEnd::may_go,
                            [&inode]() REQUIRES(inode.mutex) { inode.maybe_shared = true; });
}

bool Needs::is_in_place(Inode& inode, int fd, ByteRange range) const {
  if (!backing_.rules().overwrites_in_place || range.end() > inode.size || inode.sharing > 0) return false;
  // A file without blocks may have its data in the inode.
  if (inode.charge.bytes == Bytes(0)) return false;
  const BlockRange blocks = range.blocks(backing_.block());
  if (inode.map.known_written(blocks)) return !inode.maybe_shared;
  const auto counts = inode.map.count(blocks, fill_of(inode, fd));
  return counts && counts->written == blocks.count && !inode.maybe_shared;
}

Need Needs::far(const Inode& inode, ByteRange range) const {
  const AllocationRules& rules = backing_.rules();
  const uint64_t one = unit(inode);
  Need need;
  need.bytes = Bytes(range.blocks(one).count * one);
  need.extents = range.blocks(backing_.block()).count;
  // Shared blocks are copied at both ends.
  if (rules.copies_more()) need.bytes += Bytes(2 * copied(inode));
  if (range.end() > inode.size) need.bytes += rules.preallocation(range.end());
  need.bytes += late_.slack_growth(inode, need.extents);
  return need;
}

bool Needs::last_block_is_shared(Inode& inode, int fd) const {
  const uint64_t block = backing_.block();
  if (!backing_.rules().shares_blocks || inode.size % block == 0) return false;
  const auto counts = inode.map.count({inode.size / block, 1}, fill_of(inode, fd));
  return !counts || inode.sharing > 0 || (inode.maybe_shared && counts->hole > 0);
}

Result<Need> Needs::exact(Inode& inode, int fd, ByteRange range) const {
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  BlockRange known = blocks;
  // Preallocation past the end is dropped at any time, unless fallocate asked for it: not to be counted on.
  if (backing_.rules().preallocates() && !inode.preallocated_past_end) {
    const uint64_t end = (inode.size + block - 1) / block;
    known.count = std::min(known.end(), std::max(end, known.first)) - known.first;
  }
  // Data in an inode (ext4's inline_data) moves out when it grows; a file is told to have extents until it
  // has such data, and again afterwards.
  const bool may_be_inline = backing_.rules().may_hold_data_in_inode && inode.size <= block;
  if (may_be_inline) inode.hints_known = false;
  auto counts = inode.map.count(known, fill_of(inode, fd));
  if (!counts) return counts.error();
  const bool may_move_out = may_be_inline && !inode.hints.has_extents && range.end() > inode.size;
  const bool all_anew = inode.sharing > 0 || may_move_out;
  if (all_anew) *counts = {blocks.count, 0, 0};
  const uint64_t holes = all_anew ? blocks.count : counts->hole + (blocks.count - known.count);
  const bool copies_tail = range.offset > inode.size && last_block_is_shared(inode, fd);
  uint64_t one = unit(inode);
  if (inode.maybe_shared || inode.sharing > 0) one = std::max(one, copied(inode));
  Need need;
  need.exact = true;
  need.unwritten = std::min(counts->unwritten, inode.unwritten);
  need.extents = holes + (counts->unwritten - need.unwritten);
  need.bytes = Bytes(std::min(range.blocks(one).count, holes) * one);
  // A write past the end zeroes the rest of the block in which the file ended.
  if (copies_tail) need.bytes += Bytes(one);
  if (need.extents > 0) need.bytes += late_.slack_growth(inode, need.extents);
  return need;
}

Result<uint64_t> Needs::fitting(Inode& inode, int fd, ByteRange range, Bytes room) const {
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  uint64_t fits = 0;
  uint64_t too_many = blocks.count + 1;
  const auto prefix = [&](uint64_t count) {
    return std::min((blocks.first + count) * block, range.end()) - range.offset;
  };
  while (fits + 1 < too_many) {
    const uint64_t middle = fits + (too_many - fits) / 2;
    const auto need = exact(inode, fd, {range.offset, prefix(middle)});
    if (!need) return need.error();
    (need->bytes <= room ? fits : too_many) = middle;
  }
  return fits == 0 ? 0 : prefix(fits);
}

}  // namespace limaquota
