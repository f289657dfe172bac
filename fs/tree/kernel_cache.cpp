#include "fs/tree/kernel_cache.hpp"

#include <sys/resource.h>

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
  for (const auto& known : table_.too_many(most_known_)) kernel_.forget_name(known.parent, known.name);
}

}  // namespace limaquota
