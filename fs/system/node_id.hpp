// The number by which the kernel knows an inode of the mount.
#pragma once

#include <cstdint>

namespace limaquota {

// The backing inode number, with the index of the subvolume's st_dev above bit 48; the root is 1; virtual
// files have bit 62. Never a pointer, so that another process can take over.
using NodeId = uint64_t;
inline constexpr NodeId root_node = 1;
inline constexpr NodeId virtual_bit = NodeId{1} << 62;
inline constexpr bool is_virtual(NodeId id) { return (id & virtual_bit) != 0; }

}  // namespace limaquota
