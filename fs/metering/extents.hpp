// The extents of a file, as FIEMAP tells them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "accounting/bytes.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {

// Calls `visit` with every extent that the range touches. False where they cannot all be read.
template <class Visit>
bool for_each_extent(Sys& sys, int fd, ByteRange range, Visit visit) {
  constexpr size_t batch = 1024;
  for (uint64_t at = range.offset; at < range.end();) {
    const auto extents = sys.extents(fd, at, range.end() - at, batch);
    if (!extents) return false;
    for (const Extent& extent : *extents) {
      at = std::max(at, extent.offset + extent.length);
      visit(extent);
    }
    if (extents->size() < batch) break;
  }
  return true;
}

// What is allocated in a range now, shared blocks too; 0 where that cannot be told.
Bytes allocated_in(Sys& sys, int fd, ByteRange range);
// Counts the unwritten blocks of the inode's file anew: observing it then reserves their worst split.
void count_unwritten(const Backing& backing, Inode& inode, int fd) REQUIRES(inode.mutex);

}  // namespace limaquota
