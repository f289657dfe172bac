// Need: what a change of a range of a file may allocate, reckoned before the change. The allocation map
// (accounting/allocation_map.hpp) says which blocks are there; the filesystem's rules say what else comes
// along. Never too little (P1), nor so much that a write which fits is refused (P3).
#pragma once

#include <cstdint>

#include "accounting/allocation_map.hpp"
#include "accounting/bytes.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/late_metadata.hpp"

namespace limaquota {

struct Need {
  Bytes bytes;             // to reserve
  uint64_t extents = 0;    // that may come of it
  uint64_t unwritten = 0;  // unwritten blocks that become written
  bool exact = false;      // from the map
};

// `fd` is a real descriptor of the inode.
class Needs {
 public:
  Needs(const Backing& backing, const LateMetadata& late) : backing_(backing), late_(late) {}

  // Whether every block of the range is written and the file's own: then nothing changes but the data.
  bool is_in_place(Inode& inode, int fd, ByteRange range) const REQUIRES(inode.mutex);
  // Of a write far from every limit: as if nothing of the range were there.
  Need far(const Inode& inode, ByteRange range) const REQUIRES(inode.mutex);
  // Of a write where it matters.
  Result<Need> exact(Inode& inode, int fd, ByteRange range) const REQUIRES(inode.mutex);
  // How many bytes of the range, from its beginning, may be written in so much room.
  Result<uint64_t> fitting(Inode& inode, int fd, ByteRange range, Bytes room) const REQUIRES(inode.mutex);
  // Whether the block that the file ends in would be copied by a write to it.
  bool last_block_is_shared(Inode& inode, int fd) const REQUIRES(inode.mutex);

  // For the allocation map of the inode.
  AllocationMap::Fill fill_of(Inode& inode, int fd) const REQUIRES(inode.mutex);
  // What the file says of how it is allocated, where that is not known.
  void read_hints(Inode& inode, int fd) const REQUIRES(inode.mutex);
  // Bytes that an allocation takes at least, and that copying one of its blocks may take; the hints are read.
  uint64_t unit(const Inode& inode) const REQUIRES(inode.mutex) {
    return backing_.rules().unit_for(inode.hints);
  }
  uint64_t copied(const Inode& inode) const REQUIRES(inode.mutex) {
    return backing_.rules().copied_for(inode.hints);
  }

 private:
  const Backing& backing_;
  const LateMetadata& late_;
};

}  // namespace limaquota
