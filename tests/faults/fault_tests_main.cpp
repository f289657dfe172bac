// fault_tests [GoogleTest options]: as mount_tests, with limaquota_faulty, which lies beside this binary.
#include <cstdlib>
#include <filesystem>

#include "tests/mount/harness/backings.hpp"

int main(int argc, char** argv) {
  const auto beside = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  ::setenv("LIMAQUOTA_BINARY", (beside / "limaquota_faulty").c_str(), 1);
  using namespace limaquota::mount_tests;
  return main_of_tests(argc, argv);
}
