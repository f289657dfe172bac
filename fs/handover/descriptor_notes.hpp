// What each descriptor is for: notes in the memory that outlives a worker, by the descriptor's number.
//
// Supervisor and worker are made by clone(2) with CLONE_FILES: one table of descriptors, so that those of a
// killed worker stay open under their numbers, and the kernel's file handles, which are those numbers, go on.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "accounting/result.hpp"

namespace limaquota {

// A descriptor that is noted for nothing else is one that a worker had for a moment.
enum class DescriptorUse : uint8_t {
  passing,
  lasting,      // the supervisor's own: the tree's root, the log, /dev/fuse
  inode,        // O_PATH, of an inode that the kernel knows
  file,         // open file of the kernel's, through the page cache
  direct_file,  // open file of the kernel's, by direct I/O
  directory,    // open directory of the kernel's
  text          // what an open file below `.usage` shows; its handle stands where lookups do
};

// Of one descriptor. Thread safety: each member is one atomic word.
class DescriptorNote {
 public:
  std::atomic<uint32_t> account;  // of an inode without a name: its number in AccountNotes
  std::atomic<uint64_t> lookups;  // that the kernel has of an inode, or more

  DescriptorUse use() const { return static_cast<DescriptorUse>(state_ & use_mask); }
  // By the one who has the descriptor.
  void set_use(DescriptorUse use) { state_ = (state_ & ~use_mask) | static_cast<uint32_t>(use); }
  // Of a file handle: it tells a late RELEASE from the present owner.
  uint32_t generation() const { return state_ >> use_bits; }
  // In one step: the use ends, and with it the generation. False where it was not this one any more.
  bool end_use(uint32_t generation);

 private:
  static constexpr unsigned use_bits = 3;
  static constexpr uint32_t use_mask = (1U << use_bits) - 1;
  std::atomic<uint32_t> state_;
};

// Of all descriptors that a worker may have. Lies in shared memory that is zero at first.
class DescriptorNotes {
 public:
  static constexpr int most = 1 << 20;
  // 0 <= fd < most.
  DescriptorNote& of(int fd) { return notes_[fd]; }
  // What is open now is the supervisor's, and stays. False where that cannot be seen.
  bool mark_lasting();

 private:
  DescriptorNote notes_[most];
};

// All that this process has open, but for the look itself.
Result<std::vector<int>> open_descriptors();

}  // namespace limaquota
