#include "fs/metering/extents.hpp"

namespace limaquota {

Bytes allocated_in(Sys& sys, int fd, ByteRange range) {
  uint64_t sum = 0;
  const bool all = for_each_extent(sys, fd, range, [&](const Extent& extent) {
    const uint64_t first = std::max(extent.offset, range.offset);
    const uint64_t end = std::min(extent.offset + extent.length, range.end());
    if (first < end) sum += end - first;
  });
  return Bytes(all ? sum : 0);
}

void count_unwritten(const Backing& backing, Inode& inode, int fd) {
  const AllocationRules& rules = backing.rules();
  inode.unwritten = 0;
  if (!rules.is_late()) return;
  // What is to be written over unwritten blocks counts in `unsettled` already.
  if (inode.unsettled > 0) (void)backing.sys().write_back(fd);
  const uint64_t size = inode.size;
  uint64_t unwritten = 0;
  (void)for_each_extent(backing.sys(), fd, {0, INT64_MAX}, [&](const Extent& extent) {
    // What was preallocated past the end is not ours to keep.
    const bool past_end = extent.offset >= size && rules.preallocates();
    if (extent.unwritten && !past_end) unwritten += extent.length / rules.block;
  });
  inode.unwritten = unwritten;
}

}  // namespace limaquota
