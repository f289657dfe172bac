// Mixed load for some rounds (LIMAQUOTA_SOAK_SECONDS: for so long; an hour in the nightly run): the daemon's
// memory and descriptors stay flat, and each round ends with exact figures.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "tests/mount/harness/harness.hpp"
#include "tests/mount/limits/random_ops.hpp"

namespace limaquota::mount_tests {
namespace {

using Clock = std::chrono::steady_clock;

class SoakTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    for (const char* name : {"one", "two"}) {
      const fs::path vm = home().make_vm(name);
      ASSERT_TRUE(fs::create_directories(vm / "work" / "sub"));
      home().set_limit(name, "limit 16MiB\ncontrol_reserve 1MiB\n");
      directories_.push_back(vm / "work");
    }
  }

  void one_round(uint64_t seed) {
    RandomPlan plan;
    plan.directories = directories_;
    plan.phase = seed % 3 == 0 ? RandomPhase::moving : RandomPhase::mixed;
    plan.seed = seed;
    plan.operations = seed % 3 == 0 ? 400 : 2000;
    const RandomOutcome outcome = run_random_ops(plan, [this] {
      for (const char* name : {"one", "two"}) (void)home().usage(name);
    });
    for (const std::string& wrong : outcome.wrong) ADD_FAILURE() << wrong;
    operations_ += outcome.operations;
    for (const fs::path& directory : directories_) {
      fs::remove_all(directory);
      ASSERT_TRUE(fs::create_directories(directory / "sub"));
    }
    for (const char* name : {"one", "two"})
      EXPECT_TRUE(home().comes_to_rest(name)) << name << ", round " << seed;
  }

  // Resident, in KiB; what is shared with the supervisor, too.
  uint64_t memory() {
    std::ifstream file(fmt::format("/proc/{}/status", home().worker()));
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6));
    }
    return 0;
  }
  // Of the worker: "task" or "fd".
  uint64_t count(const char* what) {
    const fs::directory_iterator all(fmt::format("/proc/{}/{}", home().worker(), what));
    return static_cast<uint64_t>(std::distance(begin(all), end(all)));
  }

  // But for the ring that each thread has over io_uring.
  uint64_t descriptors() {
    const uint64_t all = count("fd");
    return over_io_uring() ? all - std::min(all, count("task")) : all;
  }

  std::vector<fs::path> directories_;
  uint64_t operations_ = 0;
};

TEST_P(SoakTest, MemoryDescriptorsAndFiguresStayFlat) {
  const std::chrono::seconds seconds(environment_number("LIMAQUOTA_SOAK_SECONDS", 0));
  const uint64_t first_seed = environment_number("LIMAQUOTA_SEED", 1);
  const size_t fewest = slow_build() ? 3 : 9;
  std::vector<uint64_t> memories;
  std::vector<uint64_t> threads;
  std::vector<uint64_t> open;
  const auto start = Clock::now();
  for (uint64_t seed = first_seed; !HasFailure(); ++seed) {
    if (memories.size() >= fewest && Clock::now() - start >= seconds) break;
    one_round(seed);
    memories.push_back(memory());
    threads.push_back(count("task"));
    // The kernel forgets what was removed as it comes to it.
    const uint64_t first = open.empty() ? descriptors() : open.front();
    EXPECT_TRUE(eventually([&] { return descriptors() <= first; })) << descriptors() << " after " << first;
    open.push_back(descriptors());
  }
  if (HasFailure()) return;
  const auto third = static_cast<ptrdiff_t>(memories.size() / 3);
  const uint64_t early = *std::max_element(memories.begin(), memories.begin() + third);
  const uint64_t late = *std::min_element(memories.end() - third, memories.end());
  const uint64_t more_threads = threads.back() - threads.front();
  const auto took = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start).count();
  fmt::print(
      "{} operations in {} rounds, {} s: in the first third at most {} KiB, in the last at least {}; {} "
      "threads, "
      "then {}; {} descriptors, then {}\n",
      operations_, memories.size(), took, early, late, threads.front(), threads.back(), open.front(),
      open.back());
  // There are as many threads as requests were ever under way at once, each with a buffer for a request and
  // one for a reply, a stack and, some of them, an arena.
  constexpr uint64_t a_thread = 2560;
  constexpr uint64_t room = 4096;
  // A sanitizer keeps what is freed for a while.
  if (!slow_build()) {
    EXPECT_LE(late, early + room + more_threads * a_thread);
  }
}

LIMAQUOTA_ON(SoakTest, "ext4", "tmpfs");

}  // namespace
}  // namespace limaquota::mount_tests
