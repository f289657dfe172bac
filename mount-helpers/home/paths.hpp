// Paths of homes, where a mount at their end may be dead or hang.
#pragma once

#include <optional>
#include <string>

namespace limaquota {

// True where a limaquota is mounted at exactly this directory, dead or alive. The path must have no symlinks.
bool is_mountpoint(const std::string& directory);
// The path without symlinks. Works where the daemon of a mount at its end is dead or hangs. Throws Refusal
// where there is none, or it cannot be known.
std::string real_path(const std::string& path);
// Nothing where there is none.
std::optional<std::string> find_real_path(const std::string& path);

}  // namespace limaquota
