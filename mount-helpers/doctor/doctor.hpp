// What `limaquota doctor` looks at. Each check gives findings; none changes anything.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mount-helpers/home/mount_state.hpp"

namespace limaquota {

// note: worth knowing. warning: something does not work, or will not. problem: limits are not held, or could
// not be.
enum class Severity { ok, note, warning, problem };
std::string_view to_string(Severity severity);

struct Finding {
  Severity severity = Severity::ok;
  std::string topic;   // "mount"
  std::string text;    // a clause, names escaped
  std::string advice;  // what to do; empty where there is nothing to be done
};
using Findings = std::vector<Finding>;

// What the checks look at.
struct Patient {
  std::string home;  // without symlinks; as given where there is none
  bool exists = false;
  MountState mount = MountState::none;

  // The tree can be looked at.
  bool is_readable() const { return exists && (mount == MountState::none || mount == MountState::alive); }
};

// /dev/fuse, fusermount3, the kernel, libfuse.
void check_machine(const Patient& patient, Findings& findings);
// The mount, dead ones anywhere, other filesystems inside the tree, what is beneath.
void check_mounts(const Patient& patient, Findings& findings);
// The user's systemd units.
void check_units(const Patient& patient, Findings& findings);
// The tree: running VMs, what leads out of it, damaged limits, links across accounts. Where is_readable().
void check_tree(const Patient& patient, Findings& findings);

}  // namespace limaquota
