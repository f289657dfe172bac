#include "accounting/layout.hpp"

#include <sys/stat.h>

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

std::optional<std::string_view> disk_of_account(std::string_view account) {
  const size_t prefix = disks_directory.size() + 1;
  if (account.size() <= prefix || !account.starts_with(disks_directory) || account[prefix - 1] != '/')
    return std::nullopt;
  return account.substr(prefix);
}

Role role_of_child(Role parent, std::string_view name, mode_t type) {
  if (!S_ISDIR(type)) return Role::plain;
  if (parent == Role::root && name == disks_directory) return Role::disks;
  if (parent == Role::root && account_of_home_directory(name)) return Role::vm;
  if (parent == Role::disks) return Role::disk;
  return Role::plain;
}

std::string own_account(Role parent, std::string_view name, mode_t type) {
  switch (role_of_child(parent, name, type)) {
    case Role::vm:
      return std::string(name);
    case Role::disk:
      return account_of_disk(name);
    default:
      return {};
  }
}

bool is_yaml(Role parent, std::string_view name) { return parent == Role::vm && name == yaml_name; }

bool is_disk_file(Role parent, std::string_view name, mode_t type) {
  return S_ISREG(type) && (parent == Role::vm || parent == Role::disk) && is_disk_file_name(name);
}

bool is_disk_file_name(std::string_view name) {
  static constexpr std::array<std::string_view, 6> names = {"disk",  "diffdisk", "basedisk",
                                                            "image", "iso",      "datadisk"};
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace limaquota
