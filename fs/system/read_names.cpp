#include "fs/system/read_names.hpp"

#include <dirent.h>

#include <array>

namespace limaquota {

Result<std::vector<std::string>> read_names(Sys& sys, int dir) {
  std::vector<std::string> names;
  alignas(dirent64) std::array<char, 32768> buffer;
  for (;;) {
    const auto got = sys.getdents(dir, buffer.data(), buffer.size());
    if (!got) return got.error();
    if (*got == 0) return names;
    for (size_t at = 0; at < *got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
      at += entry->d_reclen;
    }
  }
}

}  // namespace limaquota
