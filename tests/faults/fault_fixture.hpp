// What every fault test stands on: a Lima home served by limaquota_faulty, and the switch for its faults.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::fault_tests {

namespace fs = std::filesystem;

// One kind of fault on one backing filesystem. `rules` is the text of faulty_sys.hpp.
struct FaultCase {
  mount_tests::Filesystem filesystem;
  std::string rules;
};
inline void PrintTo(const FaultCase& fault, std::ostream* out) {
  *out << fault.filesystem << " ";
  for (const char c : fault.rules) *out << (c == '\n' ? ' ' : c);  // a result is one line
}
// "late EIO" on pwrite, one in 20, on ext4: "ext4_pwrite_late_EIO_20".
std::string name_of(const ::testing::TestParamInfo<FaultCase>& test);
// Every kind on each of these that is to be tested.
std::vector<FaultCase> on(const std::vector<mount_tests::Filesystem>& filesystems,
                          const std::vector<std::string>& kinds);
inline std::vector<FaultCase> on_all(const std::vector<std::string>& kinds) {
  return on({"tmpfs", "ext4", "xfs"}, kinds);
}

// A fresh home, mounted without faults; used == du and the end of the mount are checked at the end.
class FaultTest : public ::testing::TestWithParam<FaultCase> {
 protected:
  void SetUp() override;
  void TearDown() override;
  virtual void prepare(const fs::path& /*home*/) {}

  mount_tests::MountedHome& home() { return *home_; }
  // Mounts the home; tests that mount under faults do it themselves.
  void mount();
  virtual bool mounts_by_itself() const { return true; }
  void faults_on() { faults_on(GetParam().rules); }
  void faults_on(std::string_view rules);
  void faults_off() { faults_on(""); }
  // By the worker that was given one last.
  uint64_t injected() const;
  // used == du of every account comes, though nobody looks anything up through the mount.
  void expect_figures_come_right();
  // How many operations a test makes, and the seed of its random numbers.
  static uint64_t operations();
  static uint64_t seed();

  std::unique_ptr<mount_tests::Scratch> scratch_;
  std::unique_ptr<mount_tests::MountedHome> home_;
};

}  // namespace limaquota::fault_tests
