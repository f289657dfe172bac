// Lists of byte ranges: ascending, none empty, none touching the next. Pure functions; thread safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "accounting/bytes.hpp"

namespace limaquota {

// Adds a range that starts at or after the end of the last one; an empty one is dropped.
inline void append_range(std::vector<ByteRange>& list, ByteRange range) {
  if (range.length == 0) return;
  if (!list.empty() && list.back().end() == range.offset) {
    list.back().length += range.length;
  } else {
    list.push_back(range);
  }
}

// The part below `end`, perhaps empty.
inline ByteRange clipped(ByteRange range, uint64_t end) {
  if (range.offset >= end) return {end, 0};
  return {range.offset, std::min(range.length, end - range.offset)};
}

inline std::vector<ByteRange> intersection(const std::vector<ByteRange>& a, const std::vector<ByteRange>& b) {
  std::vector<ByteRange> both;
  for (auto x = a.begin(), y = b.begin(); x != a.end() && y != b.end();) {
    const uint64_t start = std::max(x->offset, y->offset);
    const uint64_t end = std::min(x->end(), y->end());
    if (start < end) append_range(both, {start, end - start});
    if (x->end() < y->end()) {
      ++x;
    } else {
      ++y;
    }
  }
  return both;
}

// What of [0, size) is in none of the ranges.
inline std::vector<ByteRange> holes_between(const std::vector<ByteRange>& list, uint64_t size) {
  std::vector<ByteRange> holes;
  uint64_t at = 0;
  for (const ByteRange range : list) {
    append_range(holes, {at, range.offset - at});
    at = range.end();
  }
  if (at < size) append_range(holes, {at, size - at});
  return holes;
}

// Each range grown to whole granules, none beyond `size`.
inline std::vector<ByteRange> whole_granules(const std::vector<ByteRange>& list, uint64_t granule,
                                             uint64_t size) {
  std::vector<ByteRange> whole;
  for (const ByteRange range : list) {
    const uint64_t done = whole.empty() ? 0 : whole.back().end();
    const uint64_t start = std::max(done, range.offset / granule * granule);
    const uint64_t end = std::min(size, (range.end() + granule - 1) / granule * granule);
    if (start < end) append_range(whole, {start, end - start});
  }
  return whole;
}

inline uint64_t total_length(const std::vector<ByteRange>& list) {
  uint64_t total = 0;
  for (const ByteRange range : list) total += range.length;
  return total;
}

}  // namespace limaquota
