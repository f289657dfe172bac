// The free blocks of one ext2, ext3 or ext4, read with e2fsprogs' library.
#pragma once

#include <string>
#include <vector>

#include "mount-helpers/reclaim/open_disk.hpp"

namespace limaquota {

struct ExtBitmap {
  std::vector<ByteRange> free;  // in bytes of the disk, ascending
  std::string why_not;          // why nothing was read, for people; else empty
};

// Reads only. Throws Refusal where the disk cannot be read.
ExtBitmap read_ext_bitmap(OpenDisk& disk, ByteRange partition);

}  // namespace limaquota
