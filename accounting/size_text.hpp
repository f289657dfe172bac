// Size texts: digits with an optional fraction, an optional space, optional K/M/G/T/P, optional i, optional
// B; case-insensitive, always binary as in Lima. No sign, no exponent, no overflow. A fraction is rounded
// down to whole bytes. Pure functions; thread safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "accounting/bytes.hpp"

namespace limaquota {

// The size that `text` says, or nothing where it is not one ("", "-1", "1e9", "12 XB", "20000P", "1.":
// nothing).
std::optional<Bytes> parse_size(std::string_view text);
// For people: "512 B", "1.5 GiB", "12.5 GiB"; at most one decimal, never rounded up over the next unit; "max"
// for unlimited.
std::string format_size(Bytes bytes);

}  // namespace limaquota
