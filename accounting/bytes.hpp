// Types for what must never be a bare integer: amounts of bytes, and ranges of bytes and of blocks.
#pragma once

#include <compare>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace limaquota {

// An amount of bytes. Arithmetic is checked: overflow and going below zero throw std::overflow_error, which
// the wall around every request turns into EIO; a wrong figure is never stored. `unlimited()` is what limit
// texts call `max`; it is the largest value, so comparisons need no special case.
// Thread safety: a value type.
class Bytes {
 public:
  constexpr Bytes() = default;
  constexpr explicit Bytes(uint64_t value) : value_(value) {}
  static constexpr Bytes unlimited() { return Bytes(std::numeric_limits<uint64_t>::max()); }
  // st_blocks counts units of 512 bytes, whatever the filesystem's block.
  static constexpr Bytes of_st_blocks(int64_t st_blocks) {
    return Bytes(static_cast<uint64_t>(st_blocks) * 512);
  }

  constexpr uint64_t count() const { return value_; }
  constexpr bool is_unlimited() const { return value_ == std::numeric_limits<uint64_t>::max(); }

  constexpr Bytes& operator+=(Bytes other) {
    if (__builtin_add_overflow(value_, other.value_, &value_))
      throw std::overflow_error("bytes: sum too large");
    return *this;
  }
  constexpr Bytes& operator-=(Bytes other) {
    if (other.value_ > value_) throw std::overflow_error("bytes: below zero");
    value_ -= other.value_;
    return *this;
  }
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return a += b; }
  friend constexpr Bytes operator-(Bytes a, Bytes b) { return a -= b; }
  friend constexpr Bytes operator*(Bytes a, uint64_t n) {
    uint64_t product = 0;
    if (__builtin_mul_overflow(a.value_, n, &product)) throw std::overflow_error("bytes: product too large");
    return Bytes(product);
  }
  friend constexpr auto operator<=>(Bytes, Bytes) =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14's own error

 private:
  uint64_t value_ = 0;
};

// a - b, or zero where b is larger.
constexpr Bytes minus_or_zero(Bytes a, Bytes b) { return a > b ? a - b : Bytes(0); }
// a + b, or unlimited where that is too large.
constexpr Bytes plus_or_unlimited(Bytes a, Bytes b) {
  return b.count() > Bytes::unlimited().count() - a.count() ? Bytes::unlimited() : a + b;
}
// value rounded up to a multiple of unit (unit > 0).
constexpr Bytes round_up(Bytes value, Bytes unit) {
  const uint64_t rest = value.count() % unit.count();
  return rest == 0 ? value : value + Bytes(unit.count() - rest);
}

inline namespace literals {
constexpr Bytes operator""_B(unsigned long long n) { return Bytes(n); }
constexpr Bytes operator""_KiB(unsigned long long n) { return Bytes(1024) * n; }
constexpr Bytes operator""_MiB(unsigned long long n) { return Bytes(uint64_t{1024} * 1024) * n; }
constexpr Bytes operator""_GiB(unsigned long long n) { return Bytes(uint64_t{1024} * 1024 * 1024) * n; }
}  // namespace literals

// Blocks [first, first + count) of a file, in units of the backing filesystem's block.
struct BlockRange {
  uint64_t first = 0;
  uint64_t count = 0;
  constexpr uint64_t end() const { return first + count; }
  constexpr bool empty() const { return count == 0; }
  friend constexpr bool operator==(BlockRange, BlockRange) = default;
};

// Bytes [offset, offset + length) of a file. Offsets stay below 2^63, as off_t demands.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  constexpr uint64_t end() const { return offset + length; }
  // Every block that the range touches.
  constexpr BlockRange blocks(uint64_t block_size) const {
    if (length == 0) return {offset / block_size, 0};
    const uint64_t first = offset / block_size;
    return {first, (end() - 1) / block_size - first + 1};
  }
  // The blocks that lie wholly inside.
  constexpr BlockRange whole_blocks(uint64_t block_size) const {
    const uint64_t first = (offset + block_size - 1) / block_size;
    const uint64_t last = end() / block_size;
    return {first, last > first ? last - first : 0};
  }
};

}  // namespace limaquota
