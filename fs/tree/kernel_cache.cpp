#include "fs/tree/kernel_cache.hpp"

#include <sys/resource.h>

#include <chrono>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {
namespace {
// The settler looks far more often, unless it waits for a disk.
constexpr std::chrono::milliseconds longest_until_a_look{1000};
}  // namespace

void KernelCache::set_kernel(Kernel kernel) {
  const MutexLock lock(mutex_);
  kernel_ = std::move(kernel);
}

void KernelCache::forget_some() {
  rlimit limit{};
  const MutexLock lock(mutex_);
  if (!kernel_.forget_name || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  most_known_ = limit.rlim_cur / 2;
  const auto names = table_.too_many(most_known_);
  step(Forgetting::yes);
  for (const auto& known : names) {
    kernel_.forget_name(known.parent, known.name);
    step(Forgetting::yes);
  }
  step(Forgetting::no);
}

void KernelCache::step(Forgetting now) {
  const MutexLock lock(forgetting_mutex_);
  ++steps_;
  passes_ = 0;
  forgetting_ = now;
  stepped_.notify_all();
}

bool KernelCache::wait_for_forgetting() {
  const auto now = std::chrono::steady_clock::now();
  const MutexLock lock(forgetting_mutex_);
  if (forgetting_ == Forgetting::yes && ++passes_ <= most_passes) return true;
  const uint64_t before = steps_;
  const auto until = now + (forgetting_ == Forgetting::yes ? patience_ : longest_until_a_look);
  while (steps_ == before) {
    if (!stepped_.wait_until(forgetting_mutex_, until)) break;
  }
  return steps_ != before;
}

}  // namespace limaquota
