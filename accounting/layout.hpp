// Lima's layout: which account a path belongs to, and which files are disks. Source: Lima 2.2,
// pkg/limatype/filenames and pkg/limatype/dirnames.
// Pure functions on names; thread safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace limaquota {

inline constexpr std::string_view shared_account = "_shared";
inline constexpr std::string_view disks_directory = "_disks";
inline constexpr std::string_view usage_directory = ".usage";
inline constexpr std::string_view quota_directory = ".quota";

// True for a name that Lima takes for an instance: not empty, not starting with '.' or '_'.
bool is_vm_name(std::string_view name);
// The account of a directory `name` in the Lima home, or nothing where it belongs to `_shared`.
std::optional<std::string> account_of_home_directory(std::string_view name);
// "_disks/<name>".
std::string account_of_disk(std::string_view name);
// True for the images a guest writes, by their name in a VM directory or a `_disks/<name>`: disk, diffdisk,
// basedisk, image, iso, datadisk. Everything else is a control file.
bool is_disk_file_name(std::string_view name);

}  // namespace limaquota
