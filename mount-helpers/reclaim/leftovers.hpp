// The second files of `reclaim --compress` that were left behind.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "accounting/bytes.hpp"

namespace limaquota {

// A run killed with SIGKILL leaves none: its guard removes it. One that was killed together with its guard
// does, or the host's crash; and an unnamed file (O_TMPFILE), of which nothing could stay, cannot be made
// through every mount (libfuse before 3.17 does not hand it on). It is charged to its account. Any reclaim of
// that VM, but a dry run, removes it.
struct Leftover {
  std::filesystem::path file;
  Bytes allocated;
};

// A name for a second file, beside the disk, that no file has: ".disk.limaquota-" and six letters. Known
// before the file is there, so that a guard can be.
std::filesystem::path new_second_file(const std::filesystem::path& disk);

// Says that the open second file is being worked on, until it is closed here and in every child.
void mark_in_use(int file);

// In the disk's directory; none that is marked. Thread safe.
std::vector<Leftover> leftovers_beside(const std::filesystem::path& disk);
// In all VMs' and disks' directories of a Lima home; what cannot be read counts as none. Thread safe.
std::vector<Leftover> leftovers_in(const std::filesystem::path& home);

}  // namespace limaquota
