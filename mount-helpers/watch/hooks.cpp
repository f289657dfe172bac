#include "mount-helpers/watch/hooks.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <utility>

#include "accounting/mutex.hpp"
#include "mount-helpers/programs/process.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::seconds longest_command{30};
constexpr std::chrono::seconds longest_notice{5};
constexpr std::chrono::seconds at_the_end{2};
constexpr size_t most_waiting = 100;

}  // namespace

EventHooks::EventHooks(std::string command)
    : command_(std::move(command)), notifies_(find_program("notify-send").has_value()) {
  if (notifies_ || !command_.empty()) worker_ = std::thread([this] { run(); });
}

EventHooks::~EventHooks() {
  if (!worker_.joinable()) return;
  {
    const MutexLock lock(mutex_);
    ending_ = true;
    over_at_ = Clock::now() + at_the_end;
  }
  changed_.notify_all();
  worker_.join();
}

void EventHooks::tell(const Event& event) {
  if (!worker_.joinable()) return;
  const MutexLock lock(mutex_);
  if (waiting_.size() == most_waiting) {
    warn("limaquota: --on-event is too slow: an event was not told");
    waiting_.pop_front();
  }
  waiting_.push_back(event);
  changed_.notify_all();
}

bool EventHooks::is_over() {
  const MutexLock lock(mutex_);
  return ending_ && Clock::now() >= over_at_;
}

void EventHooks::run() {
  while (true) {
    Event event;
    {
      const MutexLock lock(mutex_);
      while (!ending_ && waiting_.empty()) changed_.wait(mutex_);
      if (waiting_.empty() || (ending_ && Clock::now() >= over_at_)) return;
      event = std::move(waiting_.front());
      waiting_.pop_front();
    }
    try {
      handle(event);
    } catch (const std::exception& error) {
      warn(fmt::format("limaquota: cannot run a program: {}", error.what()));
    }
  }
}

void EventHooks::handle(const Event& event) {
  RunOptions options;
  options.keep_on = [this] { return !is_over(); };
  if (!command_.empty()) {
    options.deadline = longest_command;
    options.environment = event_environment(event);
    options.show = true;
    const Ended ended = run_program({"sh", "-c", "exec sh -c \"$1\" >&2", "sh", command_}, options);
    if (ended.timed_out) {
      warn("limaquota: --on-event did not end in time and was ended");
    } else if (!ended.ok()) {
      warn(fmt::format("limaquota: --on-event: {}", ended.complaint()));
    }
  }
  if (notifies_) {  // without a desktop it fails: nothing to say
    const Notice notice = event_notice(event);
    options.deadline = longest_notice;
    options.show = false;
    run_program({"notify-send", "--app-name=limaquota", "--", notice.title, notice.body}, options);
  }
}

}  // namespace limaquota
