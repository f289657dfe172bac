// The figures of a Lima home that is not mounted: what a mount would show in its first moment.
#pragma once

#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "accounting/result.hpp"

namespace limaquota {

struct Survey {
  Snapshot snapshot;
  // What could not be counted or is not limited, a line each, names escaped.
  std::vector<std::string> notes;
};

// Scans the tree as a mount does, by the same rules, so the figures are the same: each inode once, attached
// disks with their VM, limits from `.quota`, virtual sizes from the images' headers. Growth and refusals are
// 0. Changes nothing in the tree, not even what a mount would tidy up. Takes the time of a `du`. Not thread
// safe: the log is diverted meanwhile.
Result<Survey> survey_home(const std::string& home);

}  // namespace limaquota
