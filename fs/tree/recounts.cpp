#include "fs/tree/recounts.hpp"

#include <fcntl.h>

#include <cerrno>
#include <string>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {

void Recounts::add(const Inode& directory) {
  const MutexLock lock(mutex_);
  if (InodePtr pointer = table_.find(directory.id)) directories_.push_back(std::move(pointer));
}

void Recounts::go_on() {
  std::vector<InodePtr> directories;
  {
    const MutexLock lock(mutex_);
    directories.swap(directories_);
  }
  for (const InodePtr& directory : directories) {
    if (!recount(*directory)) add(*directory);
  }
}

bool Recounts::recount(Inode& directory) {
  const auto dir = backing_.sys().openat(directory.path.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!dir) return false;
  const auto names = read_names(backing_.sys(), dir->get());
  if (!names) return false;
  for (const std::string& name : *names) {
    const auto entry = entries_.find(directory, name.c_str());
    if (entry) ends_.forget(entry->inode->id, 1);
    if (!entry && entry.error().value != ENOENT) return false;
  }
  return true;
}

}  // namespace limaquota
