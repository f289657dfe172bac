// Which VMs are paused for space, and letting them go on once they have room.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "mount-helpers/guest/qmp.hpp"
#include "mount-helpers/watch/events.hpp"

namespace limaquota {

// Looks at one snapshot after the other. QMP, which serves one client at a time, is asked only where figures
// suggest a pause: writes were refused since the last look, or, every half minute, while an account that was
// refused has no room, or is known to be paused. Not thread safe.
class WatchPauses {
 public:
  using Clock = std::chrono::steady_clock;

  explicit WatchPauses(std::filesystem::path home) : home_(std::move(home)) {}

  // What is new: VMs that were found paused, and those that go on, by this or by somebody else. One that is
  // paused goes on when it can write at least 256 MiB and 1 % of its limit, at most once a minute. Takes at
  // most 1 s, however many do not answer. `now` never goes back.
  std::vector<Event> look(const Snapshot& snapshot, Clock::time_point now);

 private:
  struct Suspect {
    // As they were at the last look, so that a change shows.
    uint64_t refused = 0;
    Bytes limit, used;
    unsigned asks = 0;  // still to be made: a refusal shows a moment before the pause does
    bool paused = false;
    bool told_silent = false;
    Clock::time_point next_ask;    // without a change
    Clock::time_point may_resume;  // not before
  };
  bool must_ask(Suspect& suspect, const AccountFigures& account, Clock::time_point now) const;
  static bool may_resume(const Suspect& suspect, const AccountFigures& account, Clock::time_point now);
  static void learn(Suspect& suspect, const AccountFigures& account, const HostFigures& host,
                    const GuestAnswer& answer, Clock::time_point now, std::vector<Event>& events);

  std::filesystem::path home_;
  std::map<std::string, Suspect> suspects_;
};

}  // namespace limaquota
