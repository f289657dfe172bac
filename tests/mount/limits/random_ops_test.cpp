// Hard and exact (P1, P2): a million random operations against limits that are met often
// (LIMAQUOTA_RANDOM_OPERATIONS a filesystem; far fewer by default): no account is ever above its limit, and
// no figure drifts. Judged from the backing tree: with the writers stopped after each phase, and at any
// moment of the phases that only grow. The seed is printed; LIMAQUOTA_SEED sets it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "tests/mount/harness/harness.hpp"
#include "tests/mount/harness/worker_killer.hpp"
#include "tests/mount/limits/random_ops.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t limit = 8 * MiB;
constexpr uint64_t operations_a_phase = 2000;
// Fewer, since what was renamed into an account is what its limit may be passed by.
constexpr uint64_t operations_a_moving_phase = 400;
// While an account is over its limit, freeing may need metadata of its own (P1).
constexpr uint64_t freeing_needs = 64 * KiB;
constexpr std::array phases = {RandomPhase::growing, RandomPhase::mixed, RandomPhase::moving,
                               RandomPhase::mixed, RandomPhase::mixed};

struct Account {
  std::string name;
  std::string directory;  // in the home
};
const std::array<Account, 3>& accounts() {
  static const std::array<Account, 3> all = {Account{"one", "one"}, Account{"two", "two"},
                                             Account{"_shared", "_config"}};
  return all;
}

class RandomOpsTest : public MountTest {
 protected:
  void prepare(const fs::path& home) override {
    for (const Account& account : accounts()) fs::create_directories(home / account.directory / "sub");
  }
  void SetUp() override {
    MountTest::SetUp();
    if (!home_) return;
    for (const Account& account : accounts()) {
      home().set_limit(account.name, fmt::format("limit {}\ncontrol_reserve 1MiB\n", limit));
    }
  }

  void clear() {
    for (const Account& account : accounts()) {
      const fs::path directory = mount() / account.directory;
      std::vector<fs::path> entries;
      for (const auto& entry : fs::directory_iterator(directory)) entries.push_back(entry.path());
      for (const fs::path& entry : entries) fs::remove_all(entry);
      fs::create_directory(directory / "sub");
    }
  }

  void run_phase(RandomPhase phase, uint64_t seed, uint64_t operations) {
    if (phase == RandomPhase::growing) clear();
    RandomPlan plan{{}, phase, seed, operations};
    std::vector<uint64_t> before;
    for (const Account& account : accounts()) {
      plan.directories.push_back(mount() / account.directory);
      before.push_back(home().du(account.name));
    }
    const RandomOutcome outcome = run_random_ops(plan, [&] {
      if (phase == RandomPhase::growing) sample();
      if (kills_workers_) kill_worker_now_and_then();
    });
    for (const std::string& wrong : outcome.wrong) ADD_FAILURE() << to_string(phase) << ": " << wrong;
    operations_ += outcome.operations;
    refusals_ += outcome.refusals;
    judge(phase, before, outcome.moved_in);
    home().sync_backing();
    judge(phase, before, outcome.moved_in);
  }

  // At intervals of 10 to 300 ms.
  void kill_worker_now_and_then() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_kill_ || kills_ >= most_kills()) return;
    next_kill_ = now + std::chrono::milliseconds(10 + random_() % (slow_build() ? 390 : 290));
    if (kill_worker(home())) ++kills_;
  }

  void run_phases(uint64_t wanted) {
    const uint64_t seed = random_seed();
    RecordProperty("seed", std::to_string(seed));
    fmt::print("[ random   ] {} seed={}\n", filesystem(), seed);
    std::fflush(stdout);
    random_.seed(static_cast<unsigned>(seed));
    const unsigned kills = kills_workers_ ? 3 : 0;
    for (size_t i = 0;
         (operations_ < wanted || kills_ < kills) && operations_ < 500 * wanted && !HasFailure(); ++i) {
      const RandomPhase phase = phases.at(i % phases.size());
      run_phase(phase, seed + i,
                phase == RandomPhase::moving ? operations_a_moving_phase : operations_a_phase);
    }
    EXPECT_GT(refusals_, 0u) << "the limit was never met";
    fmt::print(
        "[ random   ] {} operations={} refusals={} overshoot={} drift={} judged={} sampled={} kills={}\n",
        filesystem(), operations_, refusals_, overshoot_, drift_, judged_, samples_, kills_);
  }

  void sample() {
    samples_ += 1;
    for (const Account& account : accounts()) {
      note_overshoot(account.name, held_at_least({home().backing() / account.directory}), limit, "growing");
    }
  }

  void judge(RandomPhase phase, const std::vector<uint64_t>& before, const std::vector<uint64_t>& moved_in) {
    judged_ += 1;
    for (size_t i = 0; i < accounts().size(); ++i) {
      const std::string& name = accounts().at(i).name;
      const bool may_be_over = before[i] > limit || moved_in[i] > 0;
      const uint64_t allowed = std::max(limit, before[i]) + moved_in[i] + (may_be_over ? freeing_needs : 0);
      const bool at_rest = home().comes_to_rest(name);
      const uint64_t du = home().du(name);
      const uint64_t used = home().used(name);
      if (!at_rest) {
        drift_ = std::max(drift_, du > used ? du - used : used - du);
        ADD_FAILURE() << to_string(phase) << ": " << name << " used " << used << " but du says " << du;
      }
      note_overshoot(name, du, allowed, to_string(phase));
    }
  }

  void note_overshoot(const std::string& account, uint64_t du, uint64_t allowed, const std::string& phase) {
    if (du <= allowed) return;
    if (du - allowed > overshoot_) {
      overshoot_ = du - allowed;
      ADD_FAILURE() << phase << ": " << account << " holds " << du << ", which is " << overshoot_
                    << " too much";
    }
  }

  uint64_t operations_ = 0;
  uint64_t refusals_ = 0;
  uint64_t overshoot_ = 0;
  uint64_t drift_ = 0;
  uint64_t judged_ = 0;
  uint64_t samples_ = 0;
  bool kills_workers_ = false;
  unsigned kills_ = 0;
  std::minstd_rand random_;
  std::chrono::steady_clock::time_point next_kill_;
};

TEST_P(RandomOpsTest, NeverOvershootAndNeverDrift) {
  run_phases(environment_number("LIMAQUOTA_RANDOM_OPERATIONS", slow_build() ? 4000 : 20000));
}

// Whatever is under way when the worker dies, the processes see no other error, and the next worker's figures
// are right.
TEST_P(RandomOpsTest, NeitherWhileTheWorkerIsKilledAgainAndAgain) {
  if (!workers_are_replaced()) GTEST_SKIP() << "over io_uring nobody takes over";
  home().expect_log(worker_replaced);
  kills_workers_ = true;
  run_phases(environment_number("LIMAQUOTA_RANDOM_OPERATIONS", slow_build() ? 2500 : 7000));
  EXPECT_GE(kills_, 3U);
}

LIMAQUOTA_ON_ALL(RandomOpsTest);

}  // namespace
}  // namespace limaquota::mount_tests
