// Finds what a disk occupies without need.
#pragma once

#include <functional>
#include <vector>

#include "mount-helpers/reclaim/open_disk.hpp"

namespace limaquota {

// Bytes, in whole granules of the disk.
struct Found {
  uint64_t zero = 0;  // holds zeros, some of it perhaps free
  uint64_t free = 0;  // the guest's filesystem calls all of it free
  uint64_t total() const { return zero + free; }
};

// Goes through the disk's `data` once, reading what is not wholly in `free`, and calls `found` with every
// range, whole granules, that holds nothing but zeros and free bytes; `progress` now and then with the bytes
// gone through. Holes are not read. What `found` throws goes on.
Found scan_disk(OpenDisk& disk, const std::vector<ByteRange>& data, const std::vector<ByteRange>& free,
                const std::function<void(ByteRange)>& found, const std::function<void(Bytes)>& progress);

}  // namespace limaquota
