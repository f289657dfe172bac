#include "fs/tree/kernel_cache.hpp"

#include <sys/resource.h>

#include <chrono>
#include <utility>

namespace limaquota {

void KernelCache::set_kernel(Kernel kernel) {
  const std::lock_guard lock(mutex_);
  kernel_ = std::move(kernel);
}

void KernelCache::forget_some() {
  rlimit limit{};
  const std::lock_guard lock(mutex_);
  if (!kernel_.forget_name || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  most_known_ = limit.rlim_cur / 2;
  const auto names = table_.too_many(most_known_);
  begin_forgetting();
  for (const auto& known : names) kernel_.forget_name(known.parent, known.name);
  end_forgetting();
}

void KernelCache::begin_forgetting() {
  const std::lock_guard lock(forgetting_mutex_);
  ++looks_;
  forgetting_ = true;
  looked_.notify_all();
}

void KernelCache::end_forgetting() {
  const std::lock_guard lock(forgetting_mutex_);
  forgetting_ = false;
}

bool KernelCache::wait_for_forgetting() {
  std::unique_lock lock(forgetting_mutex_);
  const uint64_t before = looks_;
  return looked_.wait_for(lock, std::chrono::seconds(1), [&] { return forgetting_ || looks_ != before; });
}

}  // namespace limaquota
