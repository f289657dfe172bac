// A request that makes the kernel know one inode more waits for the next look at what it may forget, and no
// longer.
#include "fs/tree/kernel_cache.hpp"

#include <thread>

#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

struct CachedHome : SeamHome {
  CachedHome() : SeamHome(MemoryRules::ext4()), kernel(table) {
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

}  // namespace
}  // namespace limaquota
