// Names that somebody else chose, in two forms beside that of escape_name() (escape.hpp): as they were, and
// as a word for a shell. Pure functions; thread safe.
#pragma once

#include <string>
#include <string_view>

namespace limaquota {

// What escape_name() was given, and what /proc/self/mountinfo means: each \ooo is a byte.
std::string unescape_name(std::string_view text);
// The name as a word that can be pasted into a shell, on one line: as it stands, in single quotes where a
// shell would read anything else in it, or, with control characters or bytes beyond ASCII's printable ones
// that are no UTF-8, as $'...' (bash, zsh and POSIX.1-2024 read \ooo in it).
std::string shell_quoted(std::string_view name);

}  // namespace limaquota
