// When an account is close to its limit, at it, or the host is full: each told once, until it is clearly
// over.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "mount-helpers/watch/events.hpp"

namespace limaquota {

// Looks at one snapshot after the other. What wavers around a mark is told once: warn again only after `used`
// fell 2 % of the disk line below the lowest point of the last warning; full only after 2 % of the disk line
// were writable; host_full only after 256 MiB were. Not thread safe.
class WatchLevels {
 public:
  // What is new in this snapshot. In the first one that is all that holds.
  std::vector<Event> look(const Snapshot& snapshot);

 private:
  struct Level {
    bool warned = false;
    double lowest = 0;  // share of the disk line, while warned
    bool filled = false;
  };
  void look(const AccountFigures& account, const HostFigures& host, std::vector<Event>& events);

  std::map<std::string, Level> levels_;
  bool host_filled_ = false;
};

}  // namespace limaquota
