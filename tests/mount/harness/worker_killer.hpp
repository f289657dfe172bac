// Kills the worker of a mount again and again, at random moments.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

// Over io_uring no other worker takes over when one is killed.
inline bool workers_are_replaced() { return !over_io_uring(); }
// The line of the log for each.
inline constexpr char worker_replaced[] = "the worker was ended by signal 9: another one takes over";

// False in the moment when there is none.
inline bool kill_worker(const MountedHome& home) {
  const pid_t worker = home.worker();
  return worker > 0 && ::kill(worker, SIGKILL) == 0;
}

// In one test. So few that a slow machine gets through; a long run sets more.
inline unsigned most_kills() { return static_cast<unsigned>(environment_number("LIMAQUOTA_KILLS", 20)); }

// From when it is made until it ends. Thread safety: of the test's thread.
class WorkerKiller {
 public:
  // At intervals of 5 ms to so many: by default long enough for a worker to serve, and short enough to hit it
  // in all it does.
  explicit WorkerKiller(const MountedHome& home, unsigned most_ms = 40)
      : most_us_(most_ms * (slow_build() ? 3000 : 1000)), thread_([this, &home] { run(home); }) {}
  WorkerKiller(const WorkerKiller&) = delete;
  WorkerKiller& operator=(const WorkerKiller&) = delete;
  ~WorkerKiller() { stop(); }

  // Whether work that was to be done so often has been, and was disturbed often enough to mean something.
  bool enough(uint64_t rounds, uint64_t wanted) const {
    constexpr unsigned fewest_kills = 5;
    constexpr uint64_t longest = 2000;
    return rounds >= wanted && (kills_ >= fewest_kills || rounds >= longest * wanted);
  }
  // How often it killed.
  unsigned stop() {
    done_ = true;
    if (thread_.joinable()) thread_.join();
    return kills_;
  }

 private:
  void run(const MountedHome& home) {
    std::minstd_rand random(static_cast<unsigned>(environment_number("LIMAQUOTA_SEED", 1)));
    std::uniform_int_distribution<unsigned> pause(5'000, most_us_);
    const unsigned most = most_kills();
    while (!done_ && kills_ < most) {
      ::usleep(pause(random));
      if (kill_worker(home)) ++kills_;
    }
  }

  const unsigned most_us_;
  std::atomic<bool> done_{false};
  std::atomic<unsigned> kills_{0};
  std::thread thread_;
};

}  // namespace limaquota::mount_tests
