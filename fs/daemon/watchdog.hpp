// The watchdog: sees whether the worker answers, by asking the mount now and then in a process of its own,
// since the question may never be answered. `.usage` never waits for a disk, so a slow disk is no hang.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "fs/handover/notes.hpp"

namespace limaquota {

// Of the supervisor's one thread.
class Watchdog {
 public:
  Watchdog(Notes& notes, std::string mountpoint);

  // A worker was started now.
  void worker_started();
  // It does not serve yet: how long that takes depends on the disk, and nobody can tell a slow one from a
  // hang. Says so once.
  void look_at_coming_up();
  // It serves: whether it hangs. Called once and again; one that somebody stopped, or that this process did
  // not see for a while, is forgiven.
  bool hangs(pid_t worker);
  // Ends the asking process.
  void end();
  // Goes on in another program.
  pid_t prober() const { return prober_; }

 private:
  using Clock = std::chrono::steady_clock;
  void keep_asking(Clock::time_point now);

  Notes& notes_;
  const std::string path_;  // that is asked for
  pid_t prober_ = -1;
  Clock::time_point started_, last_look_, forgiven_;
  bool told_slow_ = false;  // of this worker
};

}  // namespace limaquota
