// A request that makes the kernel know one inode more waits for the next look at what it may forget, and no
// longer.
#include "fs/tree/kernel_cache.hpp"

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <string>
#include <thread>

#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

struct CachedHome : SeamHome {
  explicit CachedHome(std::chrono::milliseconds patience = std::chrono::hours(1))
      : SeamHome(MemoryRules::ext4()), kernel(table, patience) {
    kernel.set_kernel({[](NodeId, const std::string&) {}, {}});
  }
  KernelCache kernel;
};

// As where nearly all that it knows is open: the request must not wait for what never comes.
TEST(KernelCacheTest, ALookThatFindsNothingToForgetEndsTheWait) {
  CachedHome home;
  std::atomic<bool> ended{false};
  std::thread settler([&] {
    while (!ended) home.kernel.forget_some();
  });
  EXPECT_TRUE(home.kernel.wait_for_forgetting());
  ended = true;
  settler.join();
}

// The kernel knows many names, which a settler has it forget again and again; the first goes when it is let.
struct ForgettingHome : CachedHome {
  explicit ForgettingHome(std::chrono::milliseconds patience) : CachedHome(patience) {
    for (NodeId id = 1000; id < 1032; ++id) {
      (void)table.enter(id, Fd(), root_node, std::to_string(id).c_str(), [](Inode&) {});
    }
    kernel.set_kernel({[this](NodeId, const std::string&) {
                         if (!first.exchange(false)) return;
                         asked.count_down();
                         may_forget.wait();
                       },
                       {}});
    rlimit allowed{};
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &allowed), 0);
    const rlimit few{16, allowed.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    settler = std::thread([this] {
      while (!ended) kernel.forget_some();
    });
    asked.wait();
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &allowed), 0);
  }
  ~ForgettingHome() {
    ended = true;
    if (!let) let_forget();
    settler.join();
  }
  void let_forget() {
    let = true;
    may_forget.count_down();
  }
  std::atomic<bool> first{true};
  std::atomic<bool> ended{false};
  std::latch asked{1};
  std::latch may_forget{1};
  bool let = false;
  std::thread settler;
};

void pass(KernelCache& kernel) {
  for (unsigned i = 0; i < KernelCache::most_passes; ++i) EXPECT_TRUE(kernel.wait_for_forgetting()) << i;
}

// Else a settler that gets no processor would let any number of them by.
TEST(KernelCacheTest, WhileANameIsBeingForgottenAFewRequestsPassAndTheNextWaitsForIt) {
  ForgettingHome home(std::chrono::hours(1));
  pass(home.kernel);
  std::thread later([&] { home.let_forget(); });
  EXPECT_TRUE(home.kernel.wait_for_forgetting());
  later.join();
}

TEST(KernelCacheTest, AndLosesItsPatienceWhereItHoldsThatUpItself) {
  ForgettingHome home(std::chrono::milliseconds(1));
  pass(home.kernel);
  EXPECT_FALSE(home.kernel.wait_for_forgetting());
}

}  // namespace
}  // namespace limaquota
