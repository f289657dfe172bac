// Metered I/O on ranges: fallocate in its modes, truncate, copy_file_range. What frees is not refused (P5).
#pragma once

#include <boost/container/small_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "fs/backing/backing.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/late_metadata.hpp"
#include "fs/metering/need.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class MeteredRanges {
 public:
  MeteredRanges(const Backing& backing, const LateMetadata& late, const Needs& needs, InodeCharges& charges,
                Admission& admission)
      : backing_(backing), late_(late), needs_(needs), charges_(charges), admission_(admission) {}

  Result<void> fallocate(Inode& inode, int fd, int mode, ByteRange range);
  Result<void> truncate(Inode& inode, int fd, uint64_t size);
  // A place in an open file.
  struct Place {
    Inode& inode;
    int fd;
    uint64_t offset;
  };
  Result<size_t> copy(const Place& from, const Place& to, size_t size);

 private:
  // What allocating a range would do.
  struct Allocation {
    std::vector<BlockRange> becoming_unwritten;
    Need need;
    uint64_t pending = 0;  // insertions of extents that may come of it
  };
  Result<void> allocate(Inode& inode, int fd, int mode, ByteRange range);
  Result<Allocation> reckon(Inode& inode, int fd, int mode, ByteRange range) REQUIRES(inode.mutex);
  void allocated(Inode& inode, int fd, int mode, ByteRange range, const Allocation& allocation)
      REQUIRES(inode.mutex);
  Result<void> punch(Inode& inode, int fd, int mode, ByteRange range);
  // The system call, in pieces.
  Result<void> call(int fd, int mode, ByteRange range);
  // Nothing where the range is too large, or cannot be looked at: then count_unwritten counts anew.
  std::optional<uint64_t> unwritten_in(Inode& inode, int fd, BlockRange blocks) REQUIRES(inode.mutex);
  using Edges = boost::container::small_vector<uint64_t, 2>;  // a byte in each block that is zeroed in part
  Result<Reservation> admit_edges(Inode& inode, int fd, const Edges& edges, ByteRange freed)
      REQUIRES(inode.mutex);
  Result<size_t> copy_piece(const Place& from, const Place& to, size_t size);

  const Backing& backing_;
  const LateMetadata& late_;
  const Needs& needs_;
  InodeCharges& charges_;
  Admission& admission_;
};

}  // namespace limaquota
