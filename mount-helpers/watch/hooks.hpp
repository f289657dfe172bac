// Tells other programs of events: a command of the user's, and the desktop.
#pragma once

#include <chrono>
#include <deque>
#include <string>
#include <thread>

#include "accounting/mutex.hpp"
#include "mount-helpers/watch/events.hpp"

namespace limaquota {

// Runs, for each event, one after the other, the command (by sh -c, with the event in its environment, its
// output on our standard error), and notify-send where it is installed. A thread of its own does it, so that
// nobody waits for a program that hangs: it is ended after half a minute. tell() is for one thread.
class EventHooks {
 public:
  // An empty command: none.
  explicit EventHooks(std::string command);
  // What still waits or runs has two seconds, then is ended.
  ~EventHooks();
  EventHooks(const EventHooks&) = delete;
  EventHooks& operator=(const EventHooks&) = delete;

  // Returns at once. Where very many events wait, the oldest is dropped, and that is said.
  void tell(const Event& event);

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void handle(const Event& event);
  bool is_over();

  const std::string command_;
  const bool notifies_;
  Mutex mutex_;
  Condition changed_;
  std::deque<Event> waiting_ GUARDED_BY(mutex_);
  bool ending_ GUARDED_BY(mutex_) = false;
  Clock::time_point over_at_ GUARDED_BY(mutex_);  // set with ending_
  std::thread worker_;
};

}  // namespace limaquota
