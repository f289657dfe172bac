#include "fs/handover/descriptor_notes.hpp"

#include <dirent.h>

#include <cerrno>
#include <cstdlib>

namespace limaquota {

bool DescriptorNote::end_use(uint32_t generation) {
  uint32_t now = state_;
  if (now >> use_bits != generation) return false;
  const uint32_t ended = (generation + 1) << use_bits | static_cast<uint32_t>(DescriptorUse::passing);
  return state_.compare_exchange_strong(now, ended);
}

bool DescriptorNotes::mark_lasting() {
  const auto all = open_descriptors();
  if (!all) return false;
  for (const int fd : *all) {
    if (fd < most) of(fd).set_use(DescriptorUse::lasting);
  }
  return true;
}

Result<std::vector<int>> open_descriptors() {
  std::vector<int> all;
  DIR* list = ::opendir("/proc/self/fd");
  if (list == nullptr) return Errno{errno};
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(list);
    if (entry == nullptr) break;
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != ::dirfd(list)) all.push_back(fd);
  }
  const int failed = errno;
  ::closedir(list);
  if (failed != 0) return Errno{failed};
  return all;
}

}  // namespace limaquota
