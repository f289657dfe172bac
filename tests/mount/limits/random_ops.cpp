#include "tests/mount/limits/random_ops.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>

namespace limaquota::mount_tests {
namespace {

using Tallies = std::array<RandomTally, random_processes>;

RandomOutcome sum_up(const RandomPlan& plan, const Tallies& tallies) {
  RandomOutcome outcome;
  outcome.moved_in.resize(plan.directories.size());
  for (const RandomTally& tally : tallies) {
    outcome.operations += tally.operations;
    outcome.refusals += tally.refusals;
    for (size_t i = 0; i < outcome.moved_in.size(); ++i) outcome.moved_in[i] += tally.moved_in[i];
    if (tally.wrong[0] != 0) outcome.wrong.emplace_back(tally.wrong);
  }
  return outcome;
}

// True while the process runs; writes down what ended it where that was no clean exit.
bool still_running(pid_t process, std::vector<std::string>& wrong) {
  int status = 0;
  const pid_t ended = ::waitpid(process, &status, WNOHANG);
  if (ended == 0) return true;
  if (ended != process || status != 0)
    wrong.push_back("a process ended with status " + std::to_string(status));
  return false;
}

}  // namespace

std::string to_string(RandomPhase phase) {
  switch (phase) {
    case RandomPhase::growing:
      return "growing";
    case RandomPhase::mixed:
      return "mixed";
    case RandomPhase::moving:
      return "moving";
  }
  return "?";
}

RandomOutcome run_random_ops(const RandomPlan& plan, const std::function<void()>& meanwhile) {
  void* const shared =
      ::mmap(nullptr, sizeof(Tallies), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  auto* const tallies = new (shared) Tallies();

  std::vector<pid_t> running;
  std::vector<std::string> died;
  for (unsigned i = 0; i < random_processes; ++i) {
    const pid_t process = ::fork();
    if (process == 0) {
      random_process(plan, i, tallies->at(i));
      ::_exit(0);
    }
    if (process < 0) died.push_back("fork failed");
    if (process > 0) running.push_back(process);
  }
  while (!running.empty()) {
    std::erase_if(running, [&](pid_t process) { return !still_running(process, died); });
    meanwhile();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  RandomOutcome outcome = sum_up(plan, *tallies);
  outcome.wrong.insert(outcome.wrong.end(), died.begin(), died.end());
  ::munmap(shared, sizeof(Tallies));
  return outcome;
}

}  // namespace limaquota::mount_tests
