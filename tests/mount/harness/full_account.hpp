// Brings an account to its line: the state in which most promises are tested.
#pragma once

#include <cstdint>
#include <string>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

// Appends to `file`, in pieces down to `block` bytes, until not even one block fits, also after fsync: what
// was reserved for late metadata comes back to the writer who needs it. A disk file stops at the disk line, a
// control file at the limit. Returns the bytes appended.
uint64_t fill_up(const fs::path& file, uint64_t block);
// Takes the rest of the account: the disk "iso" to the disk line, "log" to the limit.
void fill_rest(const fs::path& vm, uint64_t block);
// Fills the account to its limit: "disk" to the disk line, then "log" to the limit, then small files to the
// last block.
void fill_account(MountedHome& home, const std::string& vm, uint64_t block);

// What a file is, for "refused before anything changed".
struct FileState {
  uint64_t size = 0;
  uint64_t allocated = 0;
  int64_t modified_ns = 0;
  friend bool operator==(const FileState&, const FileState&) = default;
};
FileState state_of(const fs::path& file);
void PrintTo(const FileState& state, std::ostream* out);

// 0..count-1 in an order that `seed` says.
std::vector<uint64_t> shuffled(uint64_t count, uint64_t seed);

}  // namespace limaquota::mount_tests
