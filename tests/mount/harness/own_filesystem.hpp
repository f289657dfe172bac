// A fixture whose home is a filesystem of its own, made for the test with options that the prepared ones have
// not.
#pragma once

#include <string>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

// Skips where it is not root who runs the tests: nobody else may mount the home.
class OwnFilesystemTest : public MountTest {
 protected:
  // False: the home stays where it is after all.
  virtual bool has_own() const { return true; }
  // What mount(8) takes to mount it, without the mountpoint.
  virtual std::string own_filesystem() = 0;
  // The same for a loop device over a new image, made a filesystem by `mkfs`.
  std::string on_loop(const std::string& mkfs);

  void SetUp() override;
  void TearDown() override;
  void prepare(const fs::path& path) override;

 private:
  bool mounted_ = false;
};

}  // namespace limaquota::mount_tests
