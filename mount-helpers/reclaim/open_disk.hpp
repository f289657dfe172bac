// A stopped VM's disk as reclaim works on it: the bytes its guest sees, and where they lie.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "accounting/bytes.hpp"
#include "mount-helpers/reclaim/disk_lock.hpp"

namespace limaquota {

// Where a disk's bytes lie: two lists of ranges, ascending, none in both.
struct Layout {
  std::vector<ByteRange> data;  // occupies space in this file and may hold something but zeros
  // Reads as zeros and may yet occupy space in this file: allocated ahead and never written, or zeroed with
  // its place kept (a qcow2's zero clusters may be so, and block status does not tell).
  std::vector<ByteRange> zeros;
};

// Offsets are the guest's. All functions throw Refusal where the work cannot go on; the disk is then whole.
// Not thread safe.
class OpenDisk {
 public:
  virtual ~OpenDisk() = default;

  virtual Bytes size() const = 0;
  // What punch() frees is a whole number of these: a power of two, bytes.
  virtual uint64_t granule() const = 0;
  virtual Layout layout() = 0;
  // Fills `into`; holes are zeros.
  virtual void read(uint64_t offset, std::span<std::byte> into) = 0;
  // Gives the range back; it then reads as zeros. Aligned to the granule, or up to the end.
  virtual void punch(ByteRange range) = 0;
  // All that was done is on stable storage when it returns.
  virtual void finish() = 0;
};

// A raw file, worked on in place through the mount. The lock must live longer.
std::unique_ptr<OpenDisk> open_raw_disk(const DiskLock& lock);
// A qcow2, exported by a qemu-storage-daemon that ends with this process. `cluster` as qemu-img tells it.
enum class Export : uint8_t { read_only, writable };
std::unique_ptr<OpenDisk> open_qcow2_disk(const DiskLock& lock, uint64_t cluster, Export as);

}  // namespace limaquota
