#include "accounting/allocation_map.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>

namespace limaquota {
namespace {

constexpr uint32_t chunk_bits = static_cast<uint32_t>(AllocationMap::chunk_blocks);
// What glibc's malloc adds to a block of a multiple of 16 bytes.
constexpr size_t malloc_overhead = 16;

// A set of blocks of one chunk. Words exist only where the set is neither empty nor full.
class BlockBits {
 public:
  uint32_t count(uint32_t first, uint32_t count) const {
    if (!words_) return ones_ == 0 ? 0 : count;
    uint32_t ones = 0;
    for_each_word(first, count,
                  [&](size_t word, uint64_t mask) { ones += popcount((*words_)[word] & mask); });
    return ones;
  }

  // Returns how many blocks changed.
  uint32_t assign(uint32_t first, uint32_t count, bool value) {
    if (count == 0 || (!words_ && (ones_ != 0) == value)) return 0;
    if (count == chunk_bits) {
      const uint32_t changed = value ? chunk_bits - ones_ : ones_;
      make_uniform(value);
      return changed;
    }
    if (!words_) {
      words_ = std::make_unique<Words>();
      words_->fill(value ? 0 : ~uint64_t{0});
    }
    uint32_t changed = 0;
    for_each_word(first, count, [&](size_t word, uint64_t mask) {
      uint64_t& bits = (*words_)[word];
      const uint64_t flipped = (value ? ~bits : bits) & mask;
      if (flipped != 0) changed += popcount(flipped);
      bits ^= flipped;
    });
    ones_ = value ? ones_ + changed : ones_ - changed;
    if (ones_ == 0 || ones_ == chunk_bits) make_uniform(value);
    return changed;
  }

  bool test(uint32_t bit) const { return words_ ? ((*words_)[bit / 64] >> (bit % 64) & 1) != 0 : ones_ != 0; }

  // The first block after `from` that differs from it, at most `end`.
  uint32_t run_end(uint32_t from, uint32_t end) const {
    if (!words_) return end;
    const uint64_t flip = test(from) ? ~uint64_t{0} : 0;
    for (uint32_t at = from; at < end; at = (at / 64 + 1) * 64) {
      const uint64_t differing = ((*words_)[at / 64] ^ flip) >> (at % 64);
      if (differing != 0) return std::min(end, at + static_cast<uint32_t>(std::countr_zero(differing)));
    }
    return end;
  }

  size_t heap_bytes() const { return words_ ? sizeof(Words) + malloc_overhead : 0; }

 private:
  using Words = std::array<uint64_t, chunk_bits / 64>;

  static uint32_t popcount(uint64_t word) { return static_cast<uint32_t>(std::popcount(word)); }

  template <class Visit>
  static void for_each_word(uint32_t first, uint32_t count, Visit visit) {
    const uint32_t end = first + count;
    for (uint32_t at = first; at < end;) {
      const uint32_t shift = at % 64;
      const uint32_t bits = std::min(64 - shift, end - at);
      visit(at / 64, (~uint64_t{0} >> (64 - bits)) << shift);
      at += bits;
    }
  }

  void make_uniform(bool value) {
    words_.reset();
    ones_ = value ? chunk_bits : 0;
  }

  std::unique_ptr<Words> words_;
  uint32_t ones_ = 0;
};

// The part of a range that lies in one chunk.
struct Piece {
  uint64_t chunk;
  uint32_t first;  // inside the chunk
  uint32_t count;
};

Piece piece_at(uint64_t block, uint64_t end) {
  const uint64_t first = block % AllocationMap::chunk_blocks;
  return {block / AllocationMap::chunk_blocks, static_cast<uint32_t>(first),
          static_cast<uint32_t>(std::min(AllocationMap::chunk_blocks - first, end - block))};
}

}  // namespace

// Invariant: `unwritten` is a subset of `allocated`, and both are empty while the chunk is not known.
struct AllocationMap::Chunk {
  BlockBits allocated;
  BlockBits unwritten;
  uint32_t grown_at = 0;
  bool known = false;

  // Returns true where blocks were allocated.
  bool assign(uint32_t first, uint32_t count, BlockState state) {
    // In this order an allocation that throws leaves the chunk with at most too many holes, the safe side.
    if (state != BlockState::unwritten) unwritten.assign(first, count, false);
    const uint32_t changed = allocated.assign(first, count, state != BlockState::hole);
    if (state == BlockState::unwritten) unwritten.assign(first, count, true);
    return state != BlockState::hole && changed != 0;
  }

  void set(uint32_t first, uint32_t count, BlockState state, uint32_t now) {
    if (count == chunk_bits) known = true;
    const bool grew = known ? assign(first, count, state) : state != BlockState::hole;
    if (grew) grown_at = now;
  }

  void forget() {
    allocated = {};
    unwritten = {};
    known = false;
  }

  BlockState state_of(uint32_t block) const {
    if (!allocated.test(block)) return BlockState::hole;
    return unwritten.test(block) ? BlockState::unwritten : BlockState::written;
  }
};

struct AllocationMap::Group {
  std::array<Chunk, group_chunks> chunks;
};

AllocationMap::AllocationMap() = default;
AllocationMap::~AllocationMap() = default;
AllocationMap::AllocationMap(AllocationMap&&) noexcept = default;
AllocationMap& AllocationMap::operator=(AllocationMap&&) noexcept = default;

AllocationMap::Chunk& AllocationMap::chunk_at(uint64_t index) {
  std::unique_ptr<Group>& group = groups_[index / group_chunks];
  if (!group) group = std::make_unique<Group>();
  return group->chunks[index % group_chunks];
}

Result<AllocationMap::Chunk*> AllocationMap::filled_chunk(uint64_t index, const Fill& fill) {
  Chunk& chunk = chunk_at(index);
  if (chunk.known) return &chunk;
  const BlockRange range{index * chunk_blocks, chunk_blocks};
  Chunk fresh;
  fresh.known = true;
  fresh.grown_at = chunk.grown_at;
  uint64_t known_to = range.end();
  const Result<void> filled = fill(range, [&](BlockRange run, BlockState state) {
    if (run.first < range.end() && state == BlockState::written) known_to = std::max(known_to, run.end());
    const uint64_t first = std::max(run.first, range.first);
    const uint64_t end = std::min(run.end(), range.end());
    if (first >= end) return;
    fresh.assign(static_cast<uint32_t>(first - range.first), static_cast<uint32_t>(end - first), state);
  });
  if (!filled) return filled.error();
  chunk = std::move(fresh);
  know_written({index + 1, std::min(known_to / chunk_blocks - (index + 1), most_known_ahead)});
  return &chunk;
}

// Where SEEK_HOLE goes through all data up to the hole, asking for each of them would take the square of the
// file's length.
void AllocationMap::know_written(BlockRange chunks) {
  for (uint64_t index = chunks.first; index < chunks.end(); ++index) {
    Chunk& chunk = chunk_at(index);
    if (chunk.known) continue;
    (void)chunk.assign(0, chunk_blocks, BlockState::written);
    chunk.known = true;
  }
}

template <class Change>
void AllocationMap::for_each_present(BlockRange range, Change change) {
  if (range.empty()) return;
  for (auto it = groups_.lower_bound(range.first / group_blocks); it != groups_.end(); ++it) {
    const uint64_t group_first = it->first * group_blocks;
    if (group_first >= range.end()) break;
    const uint64_t end = std::min(range.end(), group_first + group_blocks);
    for (uint64_t at = std::max(range.first, group_first); at < end;) {
      const Piece piece = piece_at(at, end);
      change(it->second->chunks[piece.chunk % group_chunks], piece.first, piece.count);
      at += piece.count;
    }
  }
}

Result<BlockCounts> AllocationMap::count(BlockRange range, const Fill& fill) {
  BlockCounts counts;
  for (uint64_t at = range.first; at < range.end();) {
    const Piece piece = piece_at(at, range.end());
    const Result<Chunk*> chunk = filled_chunk(piece.chunk, fill);
    if (!chunk) return chunk.error();
    const uint32_t allocated = (*chunk)->allocated.count(piece.first, piece.count);
    const uint32_t unwritten = (*chunk)->unwritten.count(piece.first, piece.count);
    counts.hole += piece.count - allocated;
    counts.unwritten += unwritten;
    counts.written += allocated - unwritten;
    at += piece.count;
  }
  return counts;
}

bool AllocationMap::known_written(BlockRange range) const {
  for (uint64_t at = range.first; at < range.end();) {
    const Piece piece = piece_at(at, range.end());
    const auto group = groups_.find(piece.chunk / group_chunks);
    if (group == groups_.end()) return false;
    const Chunk& chunk = group->second->chunks[piece.chunk % group_chunks];
    if (!chunk.known || chunk.allocated.count(piece.first, piece.count) != piece.count ||
        chunk.unwritten.count(piece.first, piece.count) != 0)
      return false;
    at += piece.count;
  }
  return true;
}

Result<void> AllocationMap::runs(BlockRange range, const Fill& fill, const Sink& sink) {
  for (uint64_t at = range.first; at < range.end();) {
    const Piece piece = piece_at(at, range.end());
    if (const Result<Chunk*> chunk = filled_chunk(piece.chunk, fill); !chunk) return chunk.error();
    at += piece.count;
  }
  BlockRange run{range.first, 0};
  BlockState state = BlockState::hole;
  for (uint64_t at = range.first; at < range.end();) {
    const Piece piece = piece_at(at, range.end());
    const Chunk& chunk = chunk_at(piece.chunk);
    const uint32_t piece_end = piece.first + piece.count;
    for (uint32_t block = piece.first; block < piece_end;) {
      const uint32_t next = chunk.unwritten.run_end(block, chunk.allocated.run_end(block, piece_end));
      if (const BlockState here = chunk.state_of(block); here != state) {
        if (!run.empty()) sink(run, state);
        run = {run.end(), 0};
        state = here;
      }
      run.count += next - block;
      block = next;
    }
    at += piece.count;
  }
  if (!run.empty()) sink(run, state);
  return {};
}

void AllocationMap::set(BlockRange range, BlockState state, uint32_t now) {
  if (state == BlockState::hole && range.count > group_blocks) {
    for_each_present(
        range, [=](Chunk& chunk, uint32_t first, uint32_t count) { chunk.set(first, count, state, now); });
    return;
  }
  for (uint64_t at = range.first; at < range.end();) {
    const Piece piece = piece_at(at, range.end());
    chunk_at(piece.chunk).set(piece.first, piece.count, state, now);
    at += piece.count;
  }
}

void AllocationMap::forget(BlockRange range) {
  for_each_present(range, [](Chunk& chunk, uint32_t, uint32_t) { chunk.forget(); });
}

void AllocationMap::truncate(uint64_t blocks) {
  const uint64_t kept_groups = blocks / group_blocks + (blocks % group_blocks != 0 ? 1 : 0);
  groups_.erase(groups_.lower_bound(kept_groups), groups_.end());
  if (kept_groups == 0) return;
  for_each_present({blocks, kept_groups * group_blocks - blocks}, [](Chunk& chunk, uint32_t first, uint32_t) {
    chunk.forget();
    if (first == 0) chunk.grown_at = 0;
  });
}

uint32_t AllocationMap::grown_at(uint64_t chunk) const {
  const auto it = groups_.find(chunk / group_chunks);
  return it == groups_.end() ? 0 : it->second->chunks[chunk % group_chunks].grown_at;
}

size_t AllocationMap::memory_bytes() const {
  size_t bytes = sizeof(*this) + groups_.capacity() * sizeof(*groups_.begin());
  for (const auto& [index, group] : groups_) {
    bytes += sizeof(Group) + malloc_overhead;
    for (const Chunk& chunk : group->chunks) {
      bytes += chunk.allocated.heap_bytes() + chunk.unwritten.heap_bytes();
    }
  }
  return bytes;
}

}  // namespace limaquota
