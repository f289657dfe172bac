// Upgrading, in the supervisor: the daemon goes on as another program, and as the one before where that does
// not come up (fs/daemon/upgrade.hpp tells of both sides).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>

#include "fs/handover/notes.hpp"

namespace limaquota {

// Of the supervisor's one thread.
class Upgrading {
 public:
  explicit Upgrading(Notes& notes) : notes_(notes) {}

  // SIGUSR1 came: from this process, or from one that is not known (0).
  void ask(pid_t asker) { asker_ = asker; }
  bool is_asked() const { return asker_.has_value() && !is_under_way(); }
  // Does what was asked: tries the binary, has the worker ended (`end_worker` says whether that went well),
  // and becomes the binary. Returns where it stays this one. `prober` goes along.
  void go_on(const std::function<bool()>& end_worker, pid_t prober);
  // The program before is kept until this one has shown that it can serve.
  bool is_under_way() const { return notes_.upgrade.previous != 0; }
  // It came up too slowly for a new version.
  bool is_overdue(std::chrono::steady_clock::time_point worker_started) const;
  // While the worker serves: once it answered, and lived for a while, the upgrade is done.
  void look_at_serving(pid_t worker);
  // The worker of the new version died: this process becomes the program before. Returns only where it
  // cannot.
  void go_back(pid_t prober);

 private:
  void forget_previous();

  Notes& notes_;
  std::optional<pid_t> asker_;
};

}  // namespace limaquota
