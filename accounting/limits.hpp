// Limits of an account and of the host, and their text: what a file below `.quota` holds.
// Pure functions; thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "accounting/bytes.hpp"

namespace limaquota {

// Bytes added to the limit until a moment.
struct Loan {
  Bytes amount;
  int64_t until = 0;  // Unix seconds
  friend bool operator==(const Loan&, const Loan&) = default;
};

struct Limits {
  Bytes limit = Bytes::unlimited();
  std::optional<unsigned> warn_percent;  // 1..100; absent: 90
  std::optional<Bytes>
      control_reserve;  // absent: 1 % of the limit, at least 16 MiB, at most 256 MiB, at most half
  std::optional<Loan> loan;
  friend bool operator==(const Limits&, const Limits&) = default;

  // limit plus the loan while now < until.
  Bytes effective_limit(int64_t now) const;
  // The control reserve in force at that effective limit: the default described above, or the set one, and
  // never over half the limit. 0 where the limit is unlimited and none is set.
  Bytes effective_control_reserve(int64_t now) const;
};

inline constexpr unsigned default_warn_percent = 90;
inline constexpr Bytes default_host_reserve = Bytes(1024ULL * 1024 * 1024);

// What a parser says is wrong, for people: "line 2: unknown key 'limt' (limit, warn, control_reserve, loan)".
struct ParseError {
  std::string message;
};
template <class T>
using Parsed = std::variant<T, ParseError>;

// Lines `limit SIZE|max`, `warn N%`, `control_reserve SIZE`, `loan SIZE until UNIXSECONDS`, each at most
// once, or a lone SIZE or `max`, which sets the limit and keeps the rest of `current`. Blanks around words
// and empty lines are allowed, the last newline may be missing; a text without any line, NUL bytes, an
// unknown or repeated key, or a text over 4096 bytes is an error. Without a lone size the lines say
// everything: what is absent is the default (a text without a `limit` line: max).
Parsed<Limits> parse_limits(std::string_view text, const Limits& current);
// True where the text is one SIZE or `max` and nothing else but blanks and newlines.
bool is_lone_size(std::string_view text);
// The canonical text of limits, one line each, sizes as exact as they are: parse_limits gives the same back.
std::string limits_text(const Limits& limits);

// `.quota/_host`: `reserve SIZE`, or a lone SIZE.
Parsed<Bytes> parse_host_reserve(std::string_view text);
std::string host_reserve_text(Bytes reserve);

}  // namespace limaquota
