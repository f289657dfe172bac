#include "accounting/size_text.hpp"

#include <fmt/core.h>

#include <array>
#include <cstddef>

namespace limaquota {
namespace {

constexpr std::string_view unit_letters = "KMGTP";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes the digits at the front of `text` away from it.
std::string_view take_digits(std::string_view& text) {
  size_t length = 0;
  while (length < text.size() && is_digit(text[length])) ++length;
  const std::string_view digits = text.substr(0, length);
  text.remove_prefix(length);
  return digits;
}

// Takes the character at the front away where it is the given letter, in either case.
bool take_letter(std::string_view& text, char upper) {
  if (text.empty() || (text.front() != upper && text.front() != upper - 'A' + 'a')) return false;
  text.remove_prefix(1);
  return true;
}

// Takes a unit letter away; returns the power of two that it stands for.
unsigned take_unit(std::string_view& text) {
  for (size_t i = 0; i < unit_letters.size(); ++i) {
    if (take_letter(text, unit_letters[i])) return static_cast<unsigned>(i + 1) * 10;
  }
  return 0;
}

// floor(0.digits * 2^shift), exact for any number of digits: doubling the decimal fraction carries out one
// binary digit after the other.
uint64_t scaled_fraction(std::string digits, unsigned shift) {
  uint64_t value = 0;
  for (unsigned bit = 0; bit < shift; ++bit) {
    int carry = 0;
    for (size_t i = digits.size(); i-- > 0;) {
      const int doubled = (digits[i] - '0') * 2 + carry;
      carry = doubled / 10;
      digits[i] = static_cast<char>('0' + doubled % 10);
    }
    value = value * 2 + static_cast<unsigned>(carry);
  }
  return value;
}

std::optional<uint64_t> parse_number(std::string_view digits) {
  uint64_t value = 0;
  for (const char c : digits) {
    if (__builtin_mul_overflow(value, uint64_t{10}, &value)) return std::nullopt;
    if (__builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value)) return std::nullopt;
  }
  return value;
}

}  // namespace

std::optional<Bytes> parse_size(std::string_view text) {
  const std::string_view whole_digits = take_digits(text);
  if (whole_digits.empty()) return std::nullopt;
  std::string_view fraction_digits;
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    fraction_digits = take_digits(text);
    if (fraction_digits.empty()) return std::nullopt;
  }
  if (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const unsigned shift = take_unit(text);
  take_letter(text, 'I');
  take_letter(text, 'B');
  if (!text.empty()) return std::nullopt;

  const std::optional<uint64_t> whole = parse_number(whole_digits);
  uint64_t value = 0;
  if (!whole || __builtin_mul_overflow(*whole, uint64_t{1} << shift, &value)) return std::nullopt;
  const uint64_t fraction = scaled_fraction(std::string(fraction_digits), shift);
  // The largest value means `max`, which no number may say.
  if (__builtin_add_overflow(value, fraction, &value) || Bytes(value).is_unlimited()) return std::nullopt;
  return Bytes(value);
}

std::string format_size(Bytes bytes) {
  static constexpr std::array<std::string_view, 6> units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes.is_unlimited()) return "max";
  size_t unit = 0;
  while (unit + 1 < units.size() && bytes.count() >> (10 * (unit + 1)) != 0) ++unit;
  const uint64_t one = uint64_t{1} << (10 * unit);
  const uint64_t whole = bytes.count() / one;
  // The rest of at most 50 bits leaves room for the factor; nearest tenth, but 1023.96 stays below the next
  // unit.
  uint64_t tenths = whole * 10 + ((bytes.count() % one) * 10 + one / 2) / one;
  if (unit + 1 < units.size() && tenths >= 10240) tenths = 10239;
  if (tenths % 10 == 0) return fmt::format("{} {}", tenths / 10, units[unit]);
  return fmt::format("{}.{} {}", tenths / 10, tenths % 10, units[unit]);
}

}  // namespace limaquota
