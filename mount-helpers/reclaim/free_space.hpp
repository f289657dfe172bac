// What the guest's ext4 filesystems call free.
#pragma once

#include <string>
#include <vector>

#include "mount-helpers/reclaim/open_disk.hpp"

namespace limaquota {

struct FreeSpace {
  std::vector<ByteRange> ranges;   // ascending
  std::vector<std::string> notes;  // for people: what was not read, and why
};

// Looks for ext2, ext3 and ext4 on the whole disk or in its partitions (GPT, MBR primary), and reads their
// block bitmaps. Believed are only filesystems that libblkid recognises without doubt, that were unmounted in
// order (valid, no error, journal without transactions), whose features libext2fs knows all and whose
// checksums are right. Nothing read from the disk is trusted: free ranges lie within their partition.
FreeSpace free_space_of(OpenDisk& disk);

}  // namespace limaquota
