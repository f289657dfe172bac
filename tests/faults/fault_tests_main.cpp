// fault_tests [GoogleTest options]: as root, in a mount namespace and on filesystems of its own, with
// limaquota_faulty beside this binary.
#include <sys/mount.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tests/mount/backings.hpp"

namespace {

namespace fs = std::filesystem;
using namespace limaquota::mount_tests;

int run_tests() {
  ::setenv("LIMAQUOTA_BINARY",
           (fs::read_symlink("/proc/self/exe").parent_path() / "limaquota_faulty").c_str(), 1);
  if (!as_root()) {
    std::fprintf(stderr, "fault_tests: only root can prepare the backing filesystems\n");
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
    ::testing::InitGoogleTest(&argc, argv);
    if (::testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
    return run_tests();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fault_tests: %s\n", e.what());
    return 2;
  }
}
