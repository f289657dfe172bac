// What must be true of a tree before it is covered.
#pragma once

#include <optional>
#include <string>

namespace limaquota {

// A process other than this one that works in `tree`, runs from it or has a file of it open, as a clause for
// people: "qemu-system-x86 (pid 12) has /home/x/.lima/vm/disk open: end it first". Nothing where none of
// those that may be looked at does. A daemon has the bare tree open by the same path; it is not told of.
std::optional<std::string> user_of_tree(const std::string& tree);

// Why `source` must not be shown at `mountpoint` now, as one line that says what to do; nothing where it may.
// Both are absolute with links resolved. Looks at mounts, and at open files, working directories and programs
// of all processes that may be looked at.
std::optional<std::string> reason_against_mount(const std::string& source, const std::string& mountpoint);

}  // namespace limaquota
