// What could be freed in a Lima home, and what stands there without use.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/figures.hpp"

namespace limaquota {

// temporary: its profile, which `limaquota apply` keeps in `_config/limaquota/<vm>.yaml`, says so; running or
// not. detached: a disk that no VM has attached.
enum class FreeableKind { stopped, temporary, detached };
std::string_view to_string(FreeableKind kind);

struct Freeable {
  std::string name;  // the account's
  FreeableKind kind = FreeableKind::stopped;
  bool running = false;
  Bytes bytes;  // what deleting it gives back; of a VM without its attached disks, which stay
};

struct UnusedLimit {
  std::string name;            // the file's, below `.quota`
  std::optional<Bytes> limit;  // nothing where the file is damaged
};

struct Savings {
  std::vector<Freeable> freeable;          // most bytes first
  std::vector<UnusedLimit> unused_limits;  // limit files whose VM or disk is gone
};

// Reads Lima's pid files, the profiles and the names in `.quota`. Thread safe.
Savings find_savings(const std::string& home, const Snapshot& snapshot);

}  // namespace limaquota
