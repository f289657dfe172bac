// The signals that ask a program to end, held back while there is something to undo or to finish.
#pragma once

#include <signal.h>

#include <chrono>

namespace limaquota {

// While it lives, SIGINT, SIGTERM and SIGHUP do not end the process but are seen by came(). One that the
// process was started to ignore (nohup) stays ignored. SIGPIPE is ignored, from then on: a write that nobody
// reads any more fails, and what is to be undone or finished still is. Made before any thread, so that every
// thread holds them back; programs started by run_program get them as ever. Not thread safe.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // True once one has come, and from then on; waits so long for it.
  bool came(std::chrono::milliseconds wait = std::chrono::milliseconds(0));

 private:
  sigset_t awaited_{};
  sigset_t before_{};
  bool came_ = false;
};

}  // namespace limaquota
