#include "tests/mount/harness/limited_vm.hpp"

#include <unistd.h>

namespace limaquota::mount_tests {

void LimitedVmTest::SetUp() {
  MountTest::SetUp();
  if (!home_) return;
  vm_ = home().make_vm("vm");
  home().set_limit("vm", limit_text_);
}

Fd LimitedVmTest::written_disk(uint64_t size) {
  Fd disk = create_file(vm_ / "disk");
  EXPECT_EQ(write_range(disk.get(), 0, size).error, 0);
  EXPECT_EQ(::fsync(disk.get()), 0);
  return disk;
}

}  // namespace limaquota::mount_tests
