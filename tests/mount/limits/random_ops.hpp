// Random operations by several processes on the directories of several accounts, for judging afterwards (or
// meanwhile, where they only grow) that no account passed its limit and that no figure drifted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace limaquota::mount_tests {

// growing: nothing is ever freed or moved, so a sum of du taken at any moment must be within the limit.
// mixed: everything but renames between accounts. moving: those too.
enum class RandomPhase { growing, mixed, moving };
std::string to_string(RandomPhase phase);

struct RandomPlan {
  std::vector<std::filesystem::path> directories;  // one of each account, through the mount
  RandomPhase phase = RandomPhase::mixed;
  uint64_t seed = 0;
  uint64_t operations = 0;  // over all processes
};

inline constexpr unsigned random_processes = 4;
inline constexpr unsigned random_most_directories = 4;

struct RandomOutcome {
  uint64_t operations = 0;         // system calls that changed or could have changed an allocation
  uint64_t refusals = 0;           // of them ended with ENOSPC
  std::vector<uint64_t> moved_in;  // allocated bytes renamed into each directory from another, at most
  std::vector<std::string> wrong;  // what failed with an errno that it must not
};

// Runs the plan in forked processes and calls `meanwhile` again and again until they are done. The caller
// must have no threads running. Every descriptor and mapping of the processes is gone on return.
RandomOutcome run_random_ops(const RandomPlan& plan, const std::function<void()>& meanwhile);

// What one process does; random_ops.cpp runs it. A file of `random_ops_*` only.
struct RandomTally {
  uint64_t operations = 0;
  uint64_t refusals = 0;
  uint64_t moved_in[random_most_directories] = {};
  char wrong[160] = {};  // the first one, or empty
};
void random_process(const RandomPlan& plan, unsigned process, RandomTally& tally);

}  // namespace limaquota::mount_tests
