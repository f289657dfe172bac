#include "mount-helpers/reclaim/scan.hpp"

#include <algorithm>
#include <cstring>

#include "mount-helpers/reclaim/ranges.hpp"

namespace limaquota {
namespace {

constexpr uint64_t read_bytes = uint64_t{1} << 20;

bool is_zero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// The parts of a range outside the free ranges. Asked for ascending ranges.
class Occupied {
 public:
  explicit Occupied(const std::vector<ByteRange>& free) : next_(free.begin()), end_(free.end()) {}

  std::vector<ByteRange> parts(ByteRange range) {
    while (next_ != end_ && next_->end() <= range.offset) ++next_;
    std::vector<ByteRange> parts;
    uint64_t at = range.offset;
    for (auto free = next_; free != end_ && free->offset < range.end(); ++free) {
      if (free->offset > at) parts.push_back({at, free->offset - at});
      at = std::max(at, free->end());
    }
    if (at < range.end()) parts.push_back({at, range.end() - at});
    return parts;
  }

 private:
  std::vector<ByteRange>::const_iterator next_, end_;
};

// One pass over the disk, a piece of at most read_bytes at a time.
class Scan {
 public:
  Scan(OpenDisk& disk, const std::vector<ByteRange>& free, const std::function<void(ByteRange)>& found)
      : disk_(disk), occupied_(free), found_(found), buffer_(std::max(read_bytes, disk.granule())) {}

  // From granule to granule; pieces do not overlap.
  void piece(ByteRange range) {
    // Occupied goes forward only, so what it says of the granules is kept.
    std::vector<std::vector<ByteRange>> granules;
    bool all_free = true;
    for (uint64_t at = range.offset; at < range.end(); at += disk_.granule()) {
      granules.push_back(occupied_.parts(granule_at(at, range)));
      all_free = all_free && granules.back().empty();
    }
    if (!all_free) disk_.read(range.offset, std::span(buffer_).first(range.length));
    for (size_t i = 0; i < granules.size(); ++i) {
      judge(range, granule_at(range.offset + i * disk_.granule(), range), granules[i]);
    }
  }

  Found finish() {
    flush();
    return result_;
  }

 private:
  ByteRange granule_at(uint64_t at, ByteRange within) const {
    return {at, std::min(disk_.granule(), within.end() - at)};
  }

  void judge(ByteRange piece, ByteRange granule, const std::vector<ByteRange>& occupied) {
    for (const ByteRange part : occupied) {
      if (!is_zero(std::span(buffer_).subspan(part.offset - piece.offset, part.length))) return;
    }
    (occupied.empty() ? result_.free : result_.zero) += granule.length;
    if (pending_.end() != granule.offset) flush();
    if (pending_.length == 0) pending_.offset = granule.offset;
    pending_.length += granule.length;
  }

  void flush() {
    if (pending_.length > 0) found_(pending_);
    pending_ = {};
  }

  OpenDisk& disk_;
  Occupied occupied_;
  const std::function<void(ByteRange)>& found_;
  std::vector<std::byte> buffer_;
  ByteRange pending_;
  Found result_;
};

}  // namespace

Found scan_disk(OpenDisk& disk, const std::vector<ByteRange>& data, const std::vector<ByteRange>& free,
                const std::function<void(ByteRange)>& found, const std::function<void(Bytes)>& progress) {
  Scan scan(disk, free, found);
  const uint64_t size = disk.size().count();
  const uint64_t step = std::max(read_bytes, disk.granule());
  uint64_t next = 0;  // the first byte that no piece had yet
  uint64_t done = 0;
  for (const ByteRange range : data) {
    uint64_t at = std::max(next, range.offset / disk.granule() * disk.granule());
    const uint64_t end = std::min(size, round_up(Bytes(range.end()), Bytes(disk.granule())).count());
    for (; at < end; at = next) {
      next = std::min(end, (at / step + 1) * step);
      scan.piece({at, next - at});
      progress(Bytes(std::min(done + next - std::min(next, range.offset), done + range.length)));
    }
    done += range.length;
  }
  return scan.finish();
}

}  // namespace limaquota
