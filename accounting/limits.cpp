#include "accounting/limits.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "accounting/size_text.hpp"

namespace limaquota {
namespace {

using namespace literals;

constexpr size_t longest_text = 4096;

// A line that is not empty: its words, and its number from 1.
struct Line {
  size_t number;
  std::vector<std::string_view> words;
};

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at < line.size();) {
    if (is_blank(line[at])) {
      ++at;
      continue;
    }
    const size_t first = at;
    while (at < line.size() && !is_blank(line[at])) ++at;
    words.push_back(line.substr(first, at - first));
  }
  return words;
}

std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t length = text.find('\n');
    std::vector<std::string_view> words = words_of(text.substr(0, length));
    if (!words.empty()) lines.push_back({number, std::move(words)});
    text.remove_prefix(length == std::string_view::npos ? text.size() : length + 1);
  }
  return lines;
}

// The words [first, last) with one space between them: what a size with a space in it is read from.
std::string joined(const std::vector<std::string_view>& words, size_t first, size_t last) {
  return fmt::format("{}", fmt::join(words.begin() + first, words.begin() + last, " "));
}

// What a message may repeat of a text that anyone wrote: short and printable.
std::string in_quotes(std::string_view text) {
  std::string result(text.substr(0, 32));
  std::replace_if(
      result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return "'" + result + (text.size() > 32 ? "..." : "") + "'";
}

template <class Number>
std::optional<Number> parse_decimal(std::string_view text) {
  Number value = 0;
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Bytes> parse_size_or_max(std::string_view text) {
  return text == "max" ? std::optional(Bytes::unlimited()) : parse_size(text);
}

// The readers of a line's value: nothing, or what is wrong with it.
using Problem = std::optional<std::string>;

Problem read_limit(const Line& line, Limits& limits) {
  const std::string value = joined(line.words, 1, line.words.size());
  const std::optional<Bytes> size = parse_size_or_max(value);
  if (!size) return fmt::format("{} is no size (as 15GiB, or max)", in_quotes(value));
  limits.limit = *size;
  return std::nullopt;
}

Problem read_warn(const Line& line, Limits& limits) {
  const std::string value = joined(line.words, 1, line.words.size());
  const bool has_sign = !value.empty() && value.back() == '%';
  const std::optional<unsigned> percent =
      has_sign ? parse_decimal<unsigned>(std::string_view(value).substr(0, value.size() - 1)) : std::nullopt;
  if (!percent || *percent < 1 || *percent > 100) {
    return fmt::format("{} is no percentage (1% to 100%)", in_quotes(value));
  }
  limits.warn_percent = *percent;
  return std::nullopt;
}

Problem read_control_reserve(const Line& line, Limits& limits) {
  const std::string value = joined(line.words, 1, line.words.size());
  limits.control_reserve = parse_size(value);
  if (!limits.control_reserve) return fmt::format("{} is no size (as 64MiB)", in_quotes(value));
  return std::nullopt;
}

Problem read_loan(const Line& line, Limits& limits) {
  const size_t count = line.words.size();
  const std::string_view last = line.words.back();
  if (count < 4 || line.words[count - 2] != "until") return "a loan is 'loan SIZE until UNIXSECONDS'";
  const std::string value = joined(line.words, 1, count - 2);
  const std::optional<Bytes> amount = parse_size(value);
  if (!amount) return fmt::format("{} is no size (as 512MiB)", in_quotes(value));
  const std::optional<int64_t> until = parse_decimal<int64_t>(last);
  if (!until) return fmt::format("{} is no time (Unix seconds)", in_quotes(last));
  limits.loan = Loan{*amount, *until};
  return std::nullopt;
}

struct Key {
  std::string_view name;
  Problem (*read)(const Line&, Limits&);
};
constexpr std::array<Key, 4> keys = {Key{"limit", read_limit}, Key{"warn", read_warn},
                                     Key{"control_reserve", read_control_reserve}, Key{"loan", read_loan}};

std::optional<std::string> problem_of_text(std::string_view text) {
  if (text.size() > longest_text) return fmt::format("longer than {} bytes", longest_text);
  if (text.find('\0') != std::string_view::npos) return "holds a NUL byte";
  return std::nullopt;
}

// The text where it is one line that is one size, or `max` where that is allowed.
std::optional<Bytes> lone_size(const std::vector<Line>& lines, bool or_max) {
  if (lines.size() != 1) return std::nullopt;
  const std::string value = joined(lines[0].words, 0, lines[0].words.size());
  return or_max ? parse_size_or_max(value) : parse_size(value);
}

// A size that parse_size reads back as the same value, with the largest unit that divides it.
std::string exact_size(Bytes bytes) {
  static constexpr std::array<std::string_view, 6> units = {"", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes.is_unlimited()) return "max";
  uint64_t value = bytes.count();
  size_t unit = 0;
  for (; unit + 1 < units.size() && value != 0 && value % 1024 == 0; ++unit) value /= 1024;
  return fmt::format("{}{}", value, units[unit]);
}

}  // namespace

Bytes Limits::effective_limit(int64_t now) const {
  return loan && now < loan->until ? plus_or_unlimited(limit, loan->amount) : limit;
}

Bytes Limits::effective_control_reserve(int64_t now) const {
  const Bytes whole = effective_limit(now);
  if (whole.is_unlimited()) return control_reserve.value_or(Bytes(0));
  const Bytes by_default = std::clamp(Bytes(whole.count() / 100), 16_MiB, 256_MiB);
  return std::min(control_reserve.value_or(by_default), Bytes(whole.count() / 2));
}

Parsed<Limits> parse_limits(std::string_view text, const Limits& current) {
  if (const auto problem = problem_of_text(text)) return ParseError{*problem};
  const std::vector<Line> lines = lines_of(text);
  if (lines.empty()) return ParseError{"empty: a limit is 'limit SIZE' or 'limit max'"};
  if (const auto size = lone_size(lines, true)) {
    Limits limits = current;
    limits.limit = *size;
    return limits;
  }
  Limits limits;
  std::array<bool, keys.size()> seen{};
  for (const Line& line : lines) {
    const auto key =
        std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return k.name == line.words[0]; });
    const auto error = [&](const std::string& what) {
      return ParseError{fmt::format("line {}: {}", line.number, what)};
    };
    if (key == keys.end()) {
      return error(
          fmt::format("unknown key {} (limit, warn, control_reserve, loan)", in_quotes(line.words[0])));
    }
    bool& seen_before = seen[static_cast<size_t>(key - keys.begin())];
    if (seen_before) return error(fmt::format("{} is there twice", in_quotes(key->name)));
    seen_before = true;
    if (const Problem problem = key->read(line, limits)) return error(*problem);
  }
  return limits;
}

bool is_lone_size(std::string_view text) {
  return !problem_of_text(text) && lone_size(lines_of(text), true).has_value();
}

std::string limits_text(const Limits& limits) {
  std::string text = fmt::format("limit {}\n", exact_size(limits.limit));
  if (limits.warn_percent) text += fmt::format("warn {}%\n", *limits.warn_percent);
  if (limits.control_reserve)
    text += fmt::format("control_reserve {}\n", exact_size(*limits.control_reserve));
  if (limits.loan) {
    text += fmt::format("loan {} until {}\n", exact_size(limits.loan->amount), limits.loan->until);
  }
  return text;
}

Parsed<Bytes> parse_host_reserve(std::string_view text) {
  if (const auto problem = problem_of_text(text)) return ParseError{*problem};
  const std::vector<Line> lines = lines_of(text);
  if (const auto size = lone_size(lines, false)) return *size;
  if (lines.size() != 1) return ParseError{"expected one line: 'reserve SIZE'"};
  const Line& line = lines[0];
  if (line.words[0] != "reserve") {
    return ParseError{
        fmt::format("line {}: unknown key {} (reserve)", line.number, in_quotes(line.words[0]))};
  }
  const std::string value = joined(line.words, 1, line.words.size());
  if (const auto size = parse_size(value)) return *size;
  return ParseError{fmt::format("line {}: {} is no size (as 1GiB)", line.number, in_quotes(value))};
}

std::string host_reserve_text(Bytes reserve) { return fmt::format("reserve {}\n", exact_size(reserve)); }

}  // namespace limaquota
