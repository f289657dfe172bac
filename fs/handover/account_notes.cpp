#include "fs/handover/account_notes.hpp"

#include <cstring>

#include "accounting/mutex.hpp"

namespace limaquota {

uint32_t AccountNotes::number_of(std::string_view name) {
  static Mutex mutex;
  const MutexLock lock(mutex);
  const uint32_t count = count_;
  if (name.size() >= longest_name) return 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (name == names_[i]) return i + 1;
  }
  if (count == most) return 0;
  std::memcpy(names_[count], name.data(), name.size());
  names_[count][name.size()] = 0;
  count_.store(count + 1, std::memory_order_release);
  return count + 1;
}

std::string AccountNotes::name(uint32_t number) const {
  return number == 0 || number > count_ ? std::string() : std::string(names_[number - 1]);
}

}  // namespace limaquota
