// Writes a qcow2 anew, compressed.
#pragma once

#include "mount-helpers/reclaim/image.hpp"
#include "mount-helpers/reclaim/open_disk.hpp"
#include "mount-helpers/reclaim/reclaim.hpp"

namespace limaquota {

// Replaces the image by a compressed one with the same content, backing file, mode and owner: convert,
// compare, check, fsync, rename. A second file lives beside it meanwhile, charged to the account; refused,
// with the figures, where that may not fit. What was killed at any moment leaves the old image as it was.
// False where the new one is no smaller: the old one stays. Throws Refusal.
bool compress_image(const ReclaimRequest& request, const DiskLock& lock, const Image& image);

// The most that the second file may take.
Bytes room_to_compress(const DiskLock& lock, const Image& image);

// A sample of what the guest's clusters hold, compressed by QEMU as compress_image() would. `compressed`
// includes the metadata of a qcow2 so small.
struct CompressedSample {
  Bytes plain, compressed;
};
// At most 64 MiB in memory, spread evenly over `data`, whole granules. Throws Refusal.
CompressedSample sample_compression(OpenDisk& disk, const std::vector<ByteRange>& data, const Image& image);

}  // namespace limaquota
