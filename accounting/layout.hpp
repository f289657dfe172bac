// Lima's layout: which account a path belongs to, and which files are disks. Source: Lima 2.2,
// pkg/limatype/filenames and pkg/limatype/dirnames.
// Pure functions on names; thread safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace limaquota {

// --- names in a Lima home, and of accounts and files below `.usage` and `.quota` ---
inline constexpr std::string_view shared_account = "_shared";
inline constexpr std::string_view disks_directory = "_disks";
inline constexpr std::string_view usage_directory = ".usage";
inline constexpr std::string_view quota_directory = ".quota";
inline constexpr std::string_view default_name = "_default";  // of the limit file for VMs without one
inline constexpr std::string_view host_name = "_host";
// In the directory of a VM, and in that of a disk: a link to the VM that it is attached to.
inline constexpr std::string_view yaml_name = "lima.yaml";
inline constexpr std::string_view in_use_by_name = "in_use_by";

// True for a name that Lima takes for an instance: not empty, not starting with '.' or '_'.
bool is_vm_name(std::string_view name);
// The account of a directory `name` in the Lima home, or nothing where it belongs to `_shared`.
std::optional<std::string> account_of_home_directory(std::string_view name);
// "_disks/<name>".
std::string account_of_disk(std::string_view name);
// The name of the disk whose account this is, or nothing.
std::optional<std::string_view> disk_of_account(std::string_view account);
// True for the images a guest writes, by their name in a VM directory or a `_disks/<name>`: disk, diffdisk,
// basedisk, image, iso, datadisk. Everything else is a control file.
bool is_disk_file_name(std::string_view name);

// What a directory is; it decides the accounts of its children.
enum class Role : uint8_t { plain, root, disks, vm, disk };

// --- of an entry `name` of type `type` (S_IFMT) in a directory of role `parent` ---
Role role_of_child(Role parent, std::string_view name, mode_t type);
// The account that it has for itself; empty where it has none.
std::string own_account(Role parent, std::string_view name, mode_t type);
bool is_yaml(Role parent, std::string_view name);
bool is_disk_file(Role parent, std::string_view name, mode_t type);

}  // namespace limaquota
