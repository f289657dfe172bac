// Metered I/O on ranges: fallocate in its modes, truncate, copy_file_range.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "fs/metering/metered_io.hpp"
#include "fs/metering/settler.hpp"

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
  SharingSource(Inode& inode, bool can_share, BlockRange blocks)
      : inode_(inode), can_share_(can_share), blocks_(blocks) {
    if (!can_share_) return;
    const std::lock_guard lock(inode_.mutex);
    inode_.maybe_shared = true;
    ++inode_.sharing;
  }
  SharingSource(const SharingSource&) = delete;
  SharingSource& operator=(const SharingSource&) = delete;
  ~SharingSource() {
    if (!can_share_) return;
    const std::lock_guard lock(inode_.mutex);
    --inode_.sharing;
    inode_.map.forget(blocks_);
  }

 private:
  Inode& inode_;
  bool can_share_;
  BlockRange blocks_;
};

// Calls `visit` with every extent that the range touches; false where they cannot all be read.
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

}  // namespace

std::optional<uint64_t> MeteredIo::unwritten_in(Inode& inode, int fd, BlockRange blocks) {
  if (inode.unwritten == 0 || blocks.empty()) return 0;
  if (blocks.count > most_blocks_counted) return std::nullopt;
  const auto counts = inode.map.count(blocks, fill_of(inode, fd));
  if (!counts) return std::nullopt;
  return std::min(counts->unwritten, inode.unwritten);
}

// What is allocated in a range now, shared blocks too.
Bytes MeteredIo::allocated_in(int fd, ByteRange range) const {
  uint64_t sum = 0;
  const bool all = for_each_extent(backing_.sys(), fd, range, [&](const Extent& extent) {
    const uint64_t first = std::max(extent.offset, range.offset);
    const uint64_t end = std::min(extent.offset + extent.length, range.end());
    if (first < end) sum += end - first;
  });
  return Bytes(all ? sum : 0);
}

// Zeroing a part of a shared block copies it first: on XFS more than it, on btrfs st_blocks stays. Nothing
// for blocks that are not shared; nor where the operation frees as much before (`freed`).
Result<Reservation> MeteredIo::admit_edges(Inode& inode, int fd, const Edges& edges, ByteRange freed,
                                           std::unique_lock<std::mutex>& lock) {
  if (!backing_.rules().copies_more()) return Reservation();
  Tried tried;
  Refused refusal;
  for (;;) {
    Bytes bytes;
    for (const uint64_t edge : edges) {
      if (edge >= inode.size) continue;
      const auto need = exact_need(inode, fd, {edge, 1});
      if (!need) return need.error();
      if (inode.maybe_shared) bytes += need->bytes;
    }
    if (bytes == Bytes(0)) return Reservation();
    auto granted =
        ledger_.reserve(claims(inode, bytes), Line::moving, backing_.host_sample(ledger_), &refusal);
    if (granted) return std::move(*granted);
    if (make_room(inode, refusal, tried, lock)) continue;
    if (bytes <= allocated_in(fd, freed)) return Reservation();
    return refused(claims(inode, Bytes(0)), bytes, refusal);
  }
}

void MeteredIo::adopt_unwritten(Inode& inode, int fd) {
  inode.unwritten = 0;
  if (!backing_.rules().is_late()) return;
  // What is to be written over unwritten blocks counts in `unsettled` already.
  if (inode.unsettled > 0) (void)backing_.sys().write_back(fd);
  (void)for_each_extent(backing_.sys(), fd, {0, INT64_MAX}, [&](const Extent& extent) {
    // What XFS preallocated past the end is not ours to keep.
    const bool past_end = extent.offset >= inode.size && backing_.rules().preallocates();
    if (extent.unwritten && !past_end) inode.unwritten += extent.length / backing_.block();
  });
}

Result<void> MeteredIo::fallocate(Inode& inode, int fd, int mode, uint64_t offset, uint64_t length) {
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) return punch(inode, fd, mode, {offset, length});
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE)) != 0) return Errno{EOPNOTSUPP};
  return allocate(inode, fd, mode, {offset, length});
}

// Everything is reserved before the first piece, so that it is refused before anything changed.
Result<void> MeteredIo::allocate(Inode& inode, int fd, int mode, ByteRange range) {
  const bool zero = (mode & FALLOC_FL_ZERO_RANGE) != 0;
  if (zero && !backing_.rules().zeroes_ranges) return Errno{EOPNOTSUPP};
  const uint64_t block = backing_.block();
  const BlockRange blocks = range.blocks(block);
  const BlockRange whole = range.whole_blocks(block);
  std::unique_lock lock(inode.mutex);
  Tried tried;
  Refused refusal;
  Need need;
  Reservation reservation;
  std::vector<BlockRange> becoming_unwritten;
  uint64_t pending = 0;  // insertions that may come of it
  for (;;) {
    // What is not allocated now must be: where that alone does not fit, the map need not be looked through,
    // which for an absurd length would take forever.
    const uint64_t present = inode.charge.bytes.count() / block;
    const Bytes at_least(blocks.count > present ? (blocks.count - present) * block : 0);
    if (!ledger_.reserve(claims(inode, at_least), line(inode), backing_.host_sample(ledger_), &refusal)) {
      if (make_room(inode, refusal, tried, lock)) continue;
      return refused(claims(inode, Bytes(0)), Bytes(range.length), refusal);
    }
    becoming_unwritten.clear();
    uint64_t holes = 0;
    uint64_t unwritten = 0;
    const auto read = inode.map.runs(blocks, fill_of(inode, fd), [&](BlockRange run, BlockState state) {
      BlockRange becomes;
      if (state == BlockState::hole) {
        holes += run.count;
        becomes = run;
      } else if (zero && state == BlockState::written) {  // those in part stay written
        const uint64_t first = std::max(run.first, whole.first);
        becomes = {first, std::max(first, std::min(run.end(), whole.end())) - first};
      }
      if (becomes.empty()) return;
      becoming_unwritten.push_back(becomes);
      unwritten += becomes.count;
    });
    if (!read) return read.error();
    const bool grows_past_end = (mode & FALLOC_FL_KEEP_SIZE) == 0 && range.end() > inode.size;
    const bool copies_tail = grows_past_end && range.offset > inode.size && last_block_is_shared(inode, fd);
    const uint64_t unit = inode.maybe_shared
                              ? std::max(unit_of(inode, fd), backing_.rules().copied_for(inode.hints))
                              : unit_of(inode, fd);
    need = Need{};
    need.extents = unwritten > 0 ? 2 : 0;
    need.bytes = Bytes((std::min(range.blocks(unit).count, holes) + (copies_tail ? 1 : 0)) * unit);
    pending = unwritten > 0 ? unwritten + need.extents : 0;
    if (pending > 0) need.bytes += slack_growth(inode, pending);
    if (need.bytes == Bytes(0)) break;
    auto granted =
        ledger_.reserve(claims(inode, need.bytes), line(inode), backing_.host_sample(ledger_), &refusal);
    if (granted) {
      reservation = std::move(*granted);
      break;
    }
    if (make_room(inode, refusal, tried, lock)) continue;
    return refused(claims(inode, Bytes(0)), Bytes(range.length), refusal);
  }
  expect_extents(inode, pending);
  Result<void> result;
  const uint64_t most = piece_of(range.length);
  for (uint64_t at = range.offset; at < range.end() && result; at += most) {
    const uint64_t piece = std::min(most, range.end() - at);
    result = backing_.sys().fallocate(fd, mode, static_cast<off_t>(at), static_cast<off_t>(piece));
  }
  if (result) {
    if ((mode & FALLOC_FL_KEEP_SIZE) != 0 && range.end() > inode.size) inode.preallocated_past_end = true;
    for (const BlockRange run : becoming_unwritten) {
      inode.map.set(run, BlockState::unwritten, steady_seconds());
      if (backing_.rules().keeps_unwritten) inode.unwritten += run.count;
    }
    // Shared blocks are holes to the map, and stay shared.
    if (!zero && inode.maybe_shared) {
      inode.map.forget(blocks);
      adopt_unwritten(inode, fd);
    }
  } else {
    inode.hints_known = false;  // it may have kept something past the end
    inode.map.forget(blocks);
    adopt_unwritten(inode, fd);
  }
  finish(inode, fd, std::move(reservation), need);
  return result;
}

Result<void> MeteredIo::punch(Inode& inode, int fd, int mode, ByteRange range) {
  std::unique_lock lock(inode.mutex);
  const BlockRange whole = range.whole_blocks(backing_.block());
  Edges partial;
  if (range.offset % backing_.block() != 0) partial.push_back(range.offset);
  if (range.end() % backing_.block() != 0) partial.push_back(range.end() - 1);
  const ByteRange freed{whole.first * backing_.block(), whole.count * backing_.block()};
  auto edges = admit_edges(inode, fd, partial, freed, lock);
  if (!edges) return edges.error();
  Result<void> result;
  const auto unwritten = unwritten_in(inode, fd, whole);
  // First what frees.
  if (!partial.empty() && inode.maybe_shared && freed.length > 0)
    result = backing_.sys().fallocate(fd, mode, static_cast<off_t>(freed.offset),
                                      static_cast<off_t>(freed.length));
  const uint64_t most = piece_of(range.length);
  for (uint64_t at = range.offset; at < range.end() && result; at += most) {
    const uint64_t piece = std::min(most, range.end() - at);
    result = backing_.sys().fallocate(fd, mode, static_cast<off_t>(at), static_cast<off_t>(piece));
  }
  if (result) {
    inode.map.set(whole, BlockState::hole, steady_seconds());
    if (unwritten) inode.unwritten -= *unwritten;
    if (!unwritten) adopt_unwritten(inode, fd);
  } else {
    inode.map.forget(whole);
    if (inode.unwritten > 0) adopt_unwritten(inode, fd);
  }
  finish(inode, fd, std::move(*edges), {});
  return result;
}

Result<void> MeteredIo::truncate(Inode& inode, int fd, uint64_t size) {
  std::unique_lock lock(inode.mutex);
  const auto before = backing_.sys().fstat(fd);
  if (!before) return before.error();
  inode.size = static_cast<uint64_t>(before->st_size);
  const uint64_t block = backing_.block();
  const uint64_t old_size = inode.size;
  Edges partial;
  if (size < old_size && size % block != 0) partial.push_back(size);
  if (size >= old_size && old_size % block != 0) partial.push_back(old_size - 1);
  const uint64_t whole_end = std::min(old_size, round_up(Bytes(size), Bytes(block)).count());
  auto edges = admit_edges(inode, fd, partial, {whole_end, old_size - whole_end}, lock);
  if (!edges) return edges.error();
  // First what frees.
  if (size < whole_end && whole_end < old_size && inode.maybe_shared)
    (void)!backing_.sys().ftruncate(fd, static_cast<off_t>(whole_end));
  const auto result = backing_.sys().ftruncate(fd, static_cast<off_t>(size));
  if (result && size <= old_size) {
    // Whatever was allocated past the new end is gone, also what lay past the old one.
    inode.map.truncate((size + block - 1) / block);
    inode.preallocated_past_end = false;
    if (inode.unwritten > 0) adopt_unwritten(inode, fd);
  } else if (result) {
    inode.map.truncate((old_size + block - 1) / block);
  } else {
    // It may have freed some before it failed.
    inode.map = AllocationMap();
    if (inode.unwritten > 0) adopt_unwritten(inode, fd);
  }
  finish(inode, fd, std::move(*edges), {});
  return result;
}

Result<size_t> MeteredIo::copy(Inode& in, int in_fd, uint64_t in_offset, Inode& out, int out_fd,
                               uint64_t out_offset, size_t size) {
  size_t copied = 0;
  const uint64_t block = backing_.block();
  while (copied < size) {
    const uint64_t piece = std::min<uint64_t>(copy_piece_bytes, size - copied);
    const ByteRange from{in_offset + copied, piece};
    const SharingSource sharing(in, backing_.rules().shares_blocks, from.blocks(block));
    std::unique_lock lock(out.mutex);
    // Past the end of the source nothing is copied, so nothing is reserved for it.
    const auto source = backing_.sys().fstat(in_fd);
    if (!source) return copied > 0 ? Result<size_t>(copied) : Result<size_t>(source.error());
    const uint64_t source_size = static_cast<uint64_t>(source->st_size);
    if (from.offset >= source_size) break;
    const ByteRange to{out_offset + copied, std::min(piece, source_size - from.offset)};
    auto grant = admit(out, out_fd, to, true, lock);
    if (!grant) return copied > 0 ? Result<size_t>(copied) : Result<size_t>(grant.error());
    expect_extents(out, grant->need.extents);
    Result<size_t> got = size_t{0};
    const auto extended = extend_first(out, out_fd, to.offset + grant->length, grant->need.exact);
    if (extended) {
      got = backing_.sys().copy_file_range(in_fd, static_cast<off_t>(from.offset), out_fd,
                                           static_cast<off_t>(to.offset), grant->length);
      const uint64_t done = got ? *got : 0;
      if (*extended && done < grant->length) shorten_again(out, out_fd, done == 0 ? 0 : to.offset + done);
    } else {
      got = extended.error();
    }
    if (!got) grant->need.unwritten = 0;
    // What is now shared is a hole to the map; what was merely copied is asked for again.
    out.map.forget(to.blocks(block));
    if (backing_.rules().shares_blocks) out.maybe_shared = true;
    finish(out, out_fd, std::move(grant->reservation), grant->need);
    lock.unlock();
    if (!got) return copied > 0 ? Result<size_t>(copied) : Result<size_t>(got.error());
    copied += *got;
    if (*got < to.length) break;
  }
  return copied;
}

}  // namespace limaquota
