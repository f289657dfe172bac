#include "accounting/layout.hpp"

#include <algorithm>
#include <array>

namespace limaquota {

bool is_vm_name(std::string_view name) { return !name.empty() && name.front() != '.' && name.front() != '_'; }

std::optional<std::string> account_of_home_directory(std::string_view name) {
  if (!is_vm_name(name)) return std::nullopt;
  return std::string(name);
}

std::string account_of_disk(std::string_view name) {
  return std::string(disks_directory) + "/" + std::string(name);
}

bool is_disk_file_name(std::string_view name) {
  static constexpr std::array<std::string_view, 6> names = {"disk",  "diffdisk", "basedisk",
                                                            "image", "iso",      "datadisk"};
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace limaquota
