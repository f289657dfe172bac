// Makes the mount itself: by mount(2) as root, else through fusermount3.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "fs/system/fd.hpp"

namespace limaquota {

struct MountRequest {
  std::string source;  // shown in the mount table
  std::string mountpoint;
  bool allow_other = false;
  std::vector<std::string> flags;  // as in MountOptions
};

// One line for people: what went wrong and what to do.
struct MountFailure {
  std::string message;
};

// True for a mount option that MountRequest::flags may hold.
bool is_mount_flag(const std::string& option);
// The /dev/fuse descriptor of a new mount.
std::variant<Fd, MountFailure> open_mount(const MountRequest& request);
// Detaches the mount; what is still open goes on until it is closed.
void detach_mount(const std::string& mountpoint);

}  // namespace limaquota
