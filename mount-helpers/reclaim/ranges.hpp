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

inline uint64_t total_length(const std::vector<ByteRange>& list) {
  uint64_t total = 0;
  for (const ByteRange range : list) total += range.length;
  return total;
}

}  // namespace limaquota
