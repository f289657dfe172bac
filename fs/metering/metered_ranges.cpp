#include "fs/metering/metered_ranges.hpp"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/metering/extents.hpp"
#include "fs/metering/made_longer.hpp"

namespace limaquota {
namespace {

// Long calls are done in pieces, so that the kernel can be interrupted between them: a GiB each, or more
// where a sparse file is so long (exabytes, if a guest likes) that it would be too many pieces.
constexpr uint64_t least_piece_bytes = uint64_t{1} << 30;
constexpr uint64_t most_pieces = 1024;
constexpr uint64_t piece_of(uint64_t length) {
  return least_piece_bytes * (1 + length / (most_pieces * least_piece_bytes));
}
constexpr uint64_t copy_piece_bytes = uint64_t{64} << 20;
// Ranges beyond that are not looked through block by block: a sparse file may be exabytes long.
constexpr uint64_t most_blocks_counted = 65536;

// While a copy may be making blocks of its source shared, every write to the source reserves as if they were;
// after it, the source's map is asked for again.
class SharingSource {
 public:
  SharingSource(Inode& inode, const AllocationRules& rules, BlockRange blocks)
      : inode_(rules.shares_blocks ? &inode : nullptr), blocks_(blocks) {
    if (inode_ == nullptr) return;
    const MutexLock lock(inode_->mutex);
    inode_->maybe_shared = true;
    ++inode_->sharing;
  }
  SharingSource(const SharingSource&) = delete;
  SharingSource& operator=(const SharingSource&) = delete;
  ~SharingSource() {
    if (inode_ == nullptr) return;
    const MutexLock lock(inode_->mutex);
    --inode_->sharing;
    inode_->map.forget(blocks_);
  }

 private:
  Inode* const inode_;  // null where nothing is shared
  BlockRange blocks_;
};

bool has(int mode, int flag) { return (mode & flag) != 0; }

}  // namespace

Result<void> MeteredRanges::call(int fd, int mode, ByteRange range) {
  Result<void> result;
  const uint64_t most = piece_of(range.length);
  for (uint64_t at = range.offset; at < range.end() && result; at += most) {
    const uint64_t piece = std::min(most, range.end() - at);
    result = backing_.sys().fallocate(fd, mode, static_cast<off_t>(at), static_cast<off_t>(piece));
  }
  return result;
}

std::optional<uint64_t> MeteredRanges::unwritten_in(Inode& inode, int fd, BlockRange blocks) {
  if (inode.unwritten == 0 || blocks.empty()) return 0;
  if (blocks.count > most_blocks_counted) return std::nullopt;
  const auto counts = inode.map.count(blocks, needs_.fill_of(inode, fd));
  if (!counts) return std::nullopt;
  return std::min(counts->unwritten, inode.unwritten);
}

// Zeroing a part of a shared block copies it first: on XFS more than it, on btrfs st_blocks stays. Nothing
// for blocks that are not shared; nor where the operation frees as much before (`freed`).
Result<Reservation> MeteredRanges::admit_edges(Inode& inode, int fd, const Edges& edges, ByteRange freed) {
  if (!backing_.rules().copies_more()) return Reservation();
  Admission::Tried tried;
  for (;;) {
    Bytes bytes;
    for (const uint64_t edge : edges) {
      if (edge >= inode.size) continue;
      const auto need = needs_.exact(inode, fd, {edge, 1});
      if (!need) return need.error();
      if (inode.maybe_shared) bytes += need->bytes;
    }
    if (bytes == Bytes(0)) return Reservation();
    auto reserved = admission_.reserve(inode, bytes, Line::moving);
    if (reserved.given) return std::move(*reserved.given);
    if (admission_.make_room(inode, reserved.refused, tried)) continue;
    if (bytes <= allocated_in(backing_.sys(), fd, freed)) return Reservation();
    return admission_.refused(claims(inode, Bytes(0)), bytes, reserved.refused);
  }
}

Result<void> MeteredRanges::fallocate(Inode& inode, int fd, int mode, ByteRange range) {
  if (has(mode, FALLOC_FL_PUNCH_HOLE)) return punch(inode, fd, mode, range);
  if (has(mode, ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE))) return Errno{EOPNOTSUPP};
  return allocate(inode, fd, mode, range);
}

Result<MeteredRanges::Allocation> MeteredRanges::reckon(Inode& inode, int fd, int mode, ByteRange range) {
  const uint64_t block = backing_.block();
  const BlockRange whole = range.whole_blocks(block);
  Allocation allocation;
  uint64_t holes = 0;
  uint64_t unwritten = 0;
  const auto take = [&](BlockRange run, BlockState state) {
    BlockRange becomes;
    if (state == BlockState::hole) {
      holes += run.count;
      becomes = run;
    } else if (has(mode, FALLOC_FL_ZERO_RANGE) &&
               state == BlockState::written) {  // those in part stay written
      const uint64_t first = std::max(run.first, whole.first);
      becomes = {first, std::max(first, std::min(run.end(), whole.end())) - first};
    }
    if (becomes.empty()) return;
    allocation.becoming_unwritten.push_back(becomes);
    unwritten += becomes.count;
  };
  const auto read = inode.map.runs(range.blocks(block), needs_.fill_of(inode, fd), take);
  if (!read) return read.error();
  const bool grows_past_end = !has(mode, FALLOC_FL_KEEP_SIZE) && range.end() > inode.size;
  const bool copies_tail =
      grows_past_end && range.offset > inode.size && needs_.last_block_is_shared(inode, fd);
  const uint64_t unit =
      inode.maybe_shared ? std::max(needs_.unit(inode), needs_.copied(inode)) : needs_.unit(inode);
  allocation.need.extents = unwritten > 0 ? 2 : 0;
  allocation.need.bytes = Bytes((std::min(range.blocks(unit).count, holes) + (copies_tail ? 1 : 0)) * unit);
  allocation.pending = unwritten > 0 ? unwritten + allocation.need.extents : 0;
  if (allocation.pending > 0) allocation.need.bytes += late_.slack_growth(inode, allocation.pending);
  return allocation;
}

// Everything is reserved before the first piece, so that it is refused before anything changed.
Result<void> MeteredRanges::allocate(Inode& inode, int fd, int mode, ByteRange range) {
  if (has(mode, FALLOC_FL_ZERO_RANGE) && !backing_.rules().zeroes_ranges) return Errno{EOPNOTSUPP};
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  const MutexLock lock(inode.mutex);
  Admission::Tried tried;
  Allocation allocation;
  Reservation reservation;
  for (;;) {
    // What is not allocated now must be: where that alone does not fit, the map need not be looked through,
    // which for an absurd length would take forever.
    const uint64_t present = inode.charge.bytes.count() / block;
    const Bytes at_least(blocks.count > present ? (blocks.count - present) * block : 0);
    auto reserved = admission_.reserve(inode, at_least, line_of(inode));
    if (reserved.given) {
      reserved.given.reset();
      auto reckoned = reckon(inode, fd, mode, range);
      if (!reckoned) return reckoned.error();
      allocation = std::move(*reckoned);
      if (allocation.need.bytes == Bytes(0)) break;
      reserved = admission_.reserve(inode, allocation.need.bytes, line_of(inode));
      if (reserved.given) {
        reservation = std::move(*reserved.given);
        break;
      }
    }
    if (admission_.make_room(inode, reserved.refused, tried)) continue;
    return admission_.refused(claims(inode, Bytes(0)), Bytes(range.length), reserved.refused);
  }
  late_.expect(inode, allocation.pending);
  const Result<void> result = call(fd, mode, range);
  if (result) {
    allocated(inode, fd, mode, range, allocation);
  } else {
    inode.hints_known = false;  // it may have kept something past the end
    inode.map.forget(blocks);
    count_unwritten(backing_, inode, fd);
  }
  charges_.finish(inode, fd, std::move(reservation), allocation.need);
  return result;
}

void MeteredRanges::allocated(Inode& inode, int fd, int mode, ByteRange range, const Allocation& allocation) {
  if (has(mode, FALLOC_FL_KEEP_SIZE) && range.end() > inode.size) inode.preallocated_past_end = true;
  for (const BlockRange run : allocation.becoming_unwritten) {
    inode.map.set(run, BlockState::unwritten, steady_seconds());
    if (backing_.rules().keeps_unwritten) inode.unwritten += run.count;
  }
  // Shared blocks are holes to the map, and stay shared.
  if (!has(mode, FALLOC_FL_ZERO_RANGE) && inode.maybe_shared) {
    inode.map.forget(range.blocks(backing_.block()));
    count_unwritten(backing_, inode, fd);
  }
}

Result<void> MeteredRanges::punch(Inode& inode, int fd, int mode, ByteRange range) {
  const uint64_t block = backing_.block();
  const MutexLock lock(inode.mutex);
  const BlockRange whole = range.whole_blocks(block);
  Edges partial;
  if (range.offset % block != 0) partial.push_back(range.offset);
  if (range.end() % block != 0) partial.push_back(range.end() - 1);
  const ByteRange freed{whole.first * block, whole.count * block};
  auto edges = admit_edges(inode, fd, partial, freed);
  if (!edges) return edges.error();
  Result<void> result;
  const auto unwritten = unwritten_in(inode, fd, whole);
  // First what frees.
  if (!partial.empty() && inode.maybe_shared && freed.length > 0) {
    result = backing_.sys().fallocate(fd, mode, static_cast<off_t>(freed.offset),
                                      static_cast<off_t>(freed.length));
  }
  if (result) result = call(fd, mode, range);
  if (result) {
    inode.map.set(whole, BlockState::hole, steady_seconds());
    if (unwritten) inode.unwritten -= *unwritten;
    if (!unwritten) count_unwritten(backing_, inode, fd);
  } else {
    inode.map.forget(whole);
    if (inode.unwritten > 0) count_unwritten(backing_, inode, fd);
  }
  charges_.finish(inode, fd, std::move(*edges), {});
  return result;
}

Result<void> MeteredRanges::truncate(Inode& inode, int fd, uint64_t size) {
  const MutexLock lock(inode.mutex);
  const auto before = backing_.sys().fstat(fd);
  if (!before) return before.error();
  inode.size = static_cast<uint64_t>(before->st_size);
  const uint64_t block = backing_.block();
  const uint64_t old_size = inode.size;
  Edges partial;
  if (size < old_size && size % block != 0) partial.push_back(size);
  if (size >= old_size && old_size % block != 0) partial.push_back(old_size - 1);
  const uint64_t whole_end = std::min(old_size, round_up(Bytes(size), Bytes(block)).count());
  auto edges = admit_edges(inode, fd, partial, {whole_end, old_size - whole_end});
  if (!edges) return edges.error();
  // First what frees.
  if (size < whole_end && whole_end < old_size && inode.maybe_shared)
    (void)!backing_.sys().ftruncate(fd, static_cast<off_t>(whole_end));
  const auto result = backing_.sys().ftruncate(fd, static_cast<off_t>(size));
  if (result && size <= old_size) {
    // Whatever was allocated past the new end is gone, also what lay past the old one.
    inode.map.truncate((size + block - 1) / block);
    inode.preallocated_past_end = false;
    if (inode.unwritten > 0) count_unwritten(backing_, inode, fd);
  } else if (result) {
    inode.map.truncate((old_size + block - 1) / block);
  } else {
    // It may have freed some before it failed.
    inode.map = AllocationMap();
    if (inode.unwritten > 0) count_unwritten(backing_, inode, fd);
  }
  charges_.finish(inode, fd, std::move(*edges), {});
  return result;
}

Result<size_t> MeteredRanges::copy(const Place& from, const Place& to, size_t size) {
  size_t copied = 0;
  while (copied < size) {
    const size_t piece = std::min<size_t>(copy_piece_bytes, size - copied);
    const auto got =
        copy_piece({from.inode, from.fd, from.offset + copied}, {to.inode, to.fd, to.offset + copied}, piece);
    if (!got && copied == 0) return got;
    const size_t done = got ? *got : 0;
    copied += done;
    if (done < piece) break;
  }
  return copied;
}

// Less than `size` where the source ends, or no more fits.
Result<size_t> MeteredRanges::copy_piece(const Place& from, const Place& to, size_t size) {
  const uint64_t block = backing_.block();
  const SharingSource sharing(from.inode, backing_.rules(), ByteRange{from.offset, size}.blocks(block));
  const MutexLock lock(to.inode.mutex);
  // Past the end of the source nothing is copied, so nothing is reserved for it.
  const auto source = backing_.sys().fstat(from.fd);
  if (!source) return source.error();
  const auto source_size = static_cast<uint64_t>(source->st_size);
  if (from.offset >= source_size) return size_t{0};
  const ByteRange range{to.offset, std::min<uint64_t>(size, source_size - from.offset)};
  auto grant = admission_.admit(to.inode, to.fd, range);
  if (!grant) return grant.error();
  late_.expect(to.inode, grant->need.extents);
  MadeLonger longer(backing_, to.fd);
  const auto made = longer.before(to.inode, {range.offset, grant->length}, grant->need);
  Result<size_t> got = made ? backing_.sys().copy_file_range(from.fd, static_cast<off_t>(from.offset), to.fd,
                                                             static_cast<off_t>(range.offset), grant->length)
                            : Result<size_t>(made.error());
  longer.after(to.inode, got ? *got : 0);
  if (!got) grant->need.unwritten = 0;
  // What is now shared is a hole to the map; what was merely copied is asked for again.
  to.inode.map.forget(range.blocks(block));
  if (backing_.rules().shares_blocks) to.inode.maybe_shared = true;
  charges_.finish(to.inode, to.fd, std::move(grant->reservation), grant->need);
  return got;
}

}  // namespace limaquota
