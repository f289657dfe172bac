// The allocation map of a file: which of its blocks a write would have to allocate.
//
// Shape: bitmaps by backing block, cut into chunks of 4096 blocks that are unknown, uniform or mixed (the
// idea of Roaring bitmaps, Lemire et al. 2016: choose the cheapest container for each chunk). A mixed chunk
// has a bitmap of allocated blocks and, only where some are, a bitmap of unwritten ones: two bits a block at
// worst. A chunk is filled when it is first asked for, so opening a file costs nothing. Chunks live in groups
// of 64, and the directory (a Boost.Container flat_map) holds only the groups that were touched: a sparse
// file of exabytes costs what its touched parts cost.
//
// Ranges: range.first + range.count does not overflow, which holds for every file whose offsets are below
// 2^63. Thread safety: none; the inode's lock guards it.
#pragma once

#include <boost/container/flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "accounting/bytes.hpp"
#include "accounting/result.hpp"

namespace limaquota {

// hole: a write allocates (also a shared block, whose overwriting allocates). unwritten: allocated, reads as
// zeros; a write splits extents. written: a write allocates nothing.
enum class BlockState : uint8_t { hole, unwritten, written };

// How many blocks of a range are in each state.
struct BlockCounts {
  uint64_t hole = 0;
  uint64_t unwritten = 0;
  uint64_t written = 0;
  friend bool operator==(const BlockCounts&, const BlockCounts&) = default;
};

class AllocationMap {
 public:
  static constexpr uint64_t chunk_blocks = 4096;

  // Takes one run of blocks in one state.
  using Sink = std::function<void(BlockRange, BlockState)>;
  // Reads the backing filesystem's extents of a range and gives each run that is not a hole to the sink, in
  // ascending order, clipped to the range or not, and nothing written beyond EOF. On an error the chunk stays
  // unknown. Asked for one whole chunk at a time; whole chunks after it that a written run covers are known
  // then, too (of a TiB at most). It must not touch the map.
  using Fill = std::function<Result<void>(BlockRange, const Sink&)>;

  AllocationMap();
  ~AllocationMap();
  AllocationMap(AllocationMap&&) noexcept;
  AllocationMap& operator=(AllocationMap&&) noexcept;

  // Counts the states in the range, filling what is unknown. Blocks beyond EOF count as holes, since neither
  // `fill` nor `set` ever names them otherwise (see truncate). Allocates nothing where all chunks are known.
  Result<BlockCounts> count(BlockRange range, const Fill& fill);
  // Whether all blocks of the range are known to be written: nothing is filled, nothing allocated.
  bool known_written(BlockRange range) const;
  // Calls `sink` with every maximal run in the range, holes too, ascending, filling what is unknown. On an
  // error the sink has not been called.
  Result<void> runs(BlockRange range, const Fill& fill, const Sink& sink);

  // The range now has this state: called after the system call that made it so. A chunk that is unknown stays
  // unknown unless the range covers it whole; a hole of more than a group (64 chunks) leaves unknown what was
  // never touched, so that punching an exabyte costs nothing. `now` (seconds) is remembered for chunks in
  // which blocks were allocated (hole to unwritten or written, or any allocation of an unknown chunk).
  void set(BlockRange range, BlockState state, uint32_t now);
  // The chunks that the range touches are unknown again; when they last grew is kept.
  void forget(BlockRange range);
  // Everything from block `blocks` on is gone: unknown, to be asked for again when the file grows. The chunk
  // that holds `blocks` becomes unknown as a whole, and those after it have not grown.
  void truncate(uint64_t blocks);

  // When a chunk last grew (0: not since the file was opened).
  uint32_t grown_at(uint64_t chunk) const;
  // Heap and directory bytes that the map occupies now, malloc's headers included. Costs a walk over all
  // chunks.
  size_t memory_bytes() const;

 private:
  struct Chunk;
  struct Group;
  static constexpr uint64_t group_chunks = 64;
  static constexpr uint64_t group_blocks = group_chunks * chunk_blocks;
  static constexpr uint64_t most_known_ahead = 65536;  // chunks: some filesystems call any hole data

  // The chunk with this index; its group is made where it is missing. The reference holds until truncate.
  Chunk& chunk_at(uint64_t index);
  Result<Chunk*> filled_chunk(uint64_t index, const Fill& fill);
  void know_written(BlockRange chunks);
  // Calls `change(chunk, first, count)` for each piece of the range whose group exists.
  template <class Change>
  void for_each_present(BlockRange range, Change change);

  boost::container::flat_map<uint64_t, std::unique_ptr<Group>> groups_;  // by chunk index / group_chunks
};

}  // namespace limaquota
