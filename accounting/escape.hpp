// Names that somebody else chose, shown so that a hostile one breaks neither a line, a terminal nor a format.
// Pure functions; thread safe.
#pragma once

#include <string>
#include <string_view>

namespace limaquota {

// Space, backslash, control and non-UTF-8 bytes become \ooo (octal, as /proc/mounts does).
std::string escape_name(std::string_view name);
// The same for a text of several words: its blanks stay.
std::string escape_words(std::string_view text);
// A Prometheus label value: UTF-8, in which backslash, quote and newline are escaped. A byte that is no UTF-8
// is shown as \ooo rather than replaced, so that two names stay two time series.
std::string escape_label(std::string_view value);
// Neither overlong forms nor surrogates, nothing beyond U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace limaquota
