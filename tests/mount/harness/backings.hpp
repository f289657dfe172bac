// The backing filesystems: made by root beforehand, in a mount namespace that takes them away with it.
//
// A prepared directory D holds, for each filesystem F,
//   D/F/root and D/F/user   directories of root and of the ordinary user, on that filesystem
//   D/.view/F               the same filesystem mounted a second time, so that what is covered in place stays
//   visible D/F.why                 instead, where the filesystem could not be made: one line
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

inline constexpr uid_t ordinary_user = 65534;
inline constexpr const char* view_directory_name = ".view";

// "root" or "user", by who the process is.
const char* user_directory_name();
// Where the filesystems were prepared: LIMAQUOTA_TEST_DIR.
std::filesystem::path prepared_directory();
// Empty where the filesystem is there, else why it is not.
std::string why_not_prepared(const Filesystem& filesystem);

// As root: makes and mounts all of them below `directory`. The images have no name any more when this returns
// and the loop devices clear themselves, so the end of the mount namespace is the end of everything. False
// where none could be made.
bool prepare_backings(const std::filesystem::path& directory);
// main() of a binary of such tests: GoogleTest's options are read, and all tests run on what
// LIMAQUOTA_TEST_DIR names. As root and without it: on filesystems of their own, below LIMAQUOTA_SCRATCH
// (else /var/tmp), in a new mount namespace of this process. Listing tests needs no backing.
int main_of_tests(int argc, char** argv);

}  // namespace limaquota::mount_tests
