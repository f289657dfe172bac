// What a running guest says of itself.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "accounting/figures.hpp"

namespace limaquota {

// What a running guest says that its filesystems use, against what its disks occupy.
struct Inside {
  Bytes used;
  Bytes reclaimable;  // 0 where the guest uses more, as with compressed images
};
// What a guest that was asked has answered; or why it has not.
struct InsideAnswer {
  std::optional<Inside> inside;
  std::string why;
};
// Asks the guest by `limactl shell`.
InsideAnswer look_inside(const std::string& home, const AccountFigures& vm,
                         std::chrono::milliseconds deadline = std::chrono::seconds(5));

// The VMs that run, and what those of them say whose guest answered.
using Insides = std::map<std::string, std::optional<Inside>>;
// Asks all of them at the same time, for 2.5 s; not those that are probably paused at their limit. Nothing
// where there is no limactl. Thread safe.
Insides look_inside_all(const std::string& home, const Snapshot& snapshot);

}  // namespace limaquota
