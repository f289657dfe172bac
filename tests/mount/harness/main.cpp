// mount_tests --prepare DIRECTORY   as root, in a mount namespace: makes the backing filesystems there
// mount_tests [GoogleTest options]  runs the tests on what LIMAQUOTA_TEST_DIR names; as root without it, on
//                                   filesystems of its own in a mount namespace
// LIMAQUOTA_BINARY names the command to test; otherwise it is `limaquota` beside this binary.
#include <cstring>

#include "tests/mount/harness/backings.hpp"

int main(int argc, char** argv) {
  using namespace limaquota::mount_tests;
  if (argc == 3 && std::strcmp(argv[1], "--prepare") == 0) return prepare_backings(argv[2]) ? 0 : 1;
  return main_of_tests(argc, argv);
}
