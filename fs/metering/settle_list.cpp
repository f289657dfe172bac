#include "fs/metering/settle_list.hpp"

#include <chrono>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {

void SettleList::add(Inode& inode) {
  if (inode.listed) return;
  InodePtr pointer = table_.find(inode.id);
  if (pointer.get() != &inode) return;
  inode.listed = true;
  inode.dirty_since = std::chrono::steady_clock::now();
  const MutexLock lock(mutex_);
  list_[inode.id] = std::move(pointer);
}

void SettleList::remove(Inode& inode) {
  if (!inode.listed) return;
  inode.listed = false;
  const MutexLock lock(mutex_);
  list_.erase(inode.id);
}

std::vector<InodePtr> SettleList::all() const {
  const MutexLock lock(mutex_);
  std::vector<InodePtr> all;
  all.reserve(list_.size());
  for (const auto& [id, inode] : list_) all.push_back(inode);
  return all;
}

size_t SettleList::size() const {
  const MutexLock lock(mutex_);
  return list_.size();
}

}  // namespace limaquota
