// A fixture that most tests stand on: one VM that has a limit.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "tests/mount/harness/full_account.hpp"
#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

// A home with "vm", whose limit file is that text.
class LimitedVmTest : public MountTest {
 protected:
  explicit LimitedVmTest(std::string limit = "limit 16MiB\ncontrol_reserve 1MiB\n")
      : limit_text_(std::move(limit)) {}
  void SetUp() override;
  // "vm/disk", written so far and on the disk.
  Fd written_disk(uint64_t size);
  void fill_rest() { mount_tests::fill_rest(vm_, block()); }

  fs::path vm_;

 private:
  const std::string limit_text_;
};

}  // namespace limaquota::mount_tests
