// The kernel's file handles: a descriptor's number, and a generation that tells a late RELEASE from the
// present owner of that number.
#pragma once

#include <cstdint>

#include "fs/handover/notes.hpp"
#include "fs/handover/replay.hpp"

namespace limaquota {

// The descriptor, opened for the request in service, is now the kernel's; the handle's value.
uint64_t handle_of(int fd, DescriptorUse use, Notes& notes, Replay& replay);
inline int descriptor_of(uint64_t handle) { return static_cast<int>(handle & 0xffffffff); }
// False where the handle was given back before: a RELEASE that comes again. Else it may be closed now.
bool give_back_handle(uint64_t handle, Notes& notes);

}  // namespace limaquota
