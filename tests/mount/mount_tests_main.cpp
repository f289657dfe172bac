// mount_tests --prepare DIRECTORY   as root, in a mount namespace: makes the backing filesystems there
// mount_tests [GoogleTest options]  runs the tests on what LIMAQUOTA_TEST_DIR names; as root without it, in a
// mount
//                                   namespace and on filesystems of its own
// LIMAQUOTA_BINARY names the command to test; otherwise it is `limaquota` beside this binary.
#include <sys/mount.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "tests/mount/backings.hpp"

namespace {

namespace fs = std::filesystem;
using namespace limaquota::mount_tests;

int run_tests() {
  if (std::getenv("LIMAQUOTA_TEST_DIR") != nullptr) return RUN_ALL_TESTS();
  if (!as_root()) {
    std::fprintf(stderr, "LIMAQUOTA_TEST_DIR is not set; only root can prepare the backing filesystems\n");
    return 2;
  }
  const fs::path directory = prepare_own_backings();
  const int status = RUN_ALL_TESTS();
  for (const Filesystem& filesystem : all_filesystems()) {
    ::umount2((directory / view_directory_name / filesystem).c_str(), MNT_DETACH);
    ::umount2((directory / filesystem).c_str(), MNT_DETACH);
  }
  fs::remove_all(directory);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  try {
    if (argc == 3 && std::strcmp(argv[1], "--prepare") == 0) return prepare_backings(argv[2]) ? 0 : 1;
    ::testing::InitGoogleTest(&argc, argv);
    if (::testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
    return run_tests();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "mount_tests: %s\n", e.what());
    return 2;
  }
}
