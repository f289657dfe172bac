// The supervisor: a process that does nothing but keep the worker, which serves the mount, alive. When the
// worker dies, another takes over the mount with the descriptors and the notes (fs/handover/notes.hpp) of the
// one before, and programs only wait.
#pragma once

#include <functional>
#include <string>

#include "fs/handover/notes.hpp"

namespace limaquota {

struct Supervised {
  std::string mountpoint;
  // The worker's life, in a process of its own, each time anew from what memory was when supervise was
  // called. It returns the exit status: 0 when the mount is gone.
  std::function<int()> work;
  // Called once, in the supervisor, when the mount answers.
  std::function<void()> ready;
};

// Runs workers until the mount is gone, or SIGTERM, SIGINT or SIGHUP comes; then the mount is detached, and
// what is still open ends after five seconds. Returns the exit status. The caller has one thread only, and is
// the supervisor from then on.
int supervise(Notes& notes, const Supervised& supervised);

}  // namespace limaquota
