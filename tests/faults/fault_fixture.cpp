#include "tests/faults/fault_fixture.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/mount/harness/backings.hpp"

namespace limaquota::fault_tests {

using namespace mount_tests;

std::string name_of(const ::testing::TestParamInfo<FaultCase>& test) {
  std::string name = test.param.filesystem + "_" + test.param.rules;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

std::vector<FaultCase> on(const std::vector<Filesystem>& filesystems, const std::vector<std::string>& kinds) {
  std::vector<FaultCase> cases;
  for (const Filesystem& filesystem : tested(filesystems))
    for (const std::string& kind : kinds) cases.push_back({filesystem, kind});
  return cases;
}

uint64_t FaultTest::operations() {
  return environment_number("LIMAQUOTA_FAULT_OPERATIONS", slow_build() ? 100 : 300);
}

uint64_t FaultTest::seed() { return environment_number("LIMAQUOTA_FAULTS_SEED", 1); }

void FaultTest::SetUp() {
  const std::string why = why_not_prepared(GetParam().filesystem);
  if (!why.empty()) GTEST_SKIP() << why;
  scratch_ = std::make_unique<Scratch>(GetParam().filesystem);
  ::setenv("LIMAQUOTA_FAULTS", (scratch_->path() / "faults").c_str(), 1);
  fs::create_directory(scratch_->path() / "home");
  prepare(scratch_->path() / "home");
  if (mounts_by_itself()) mount();
}

void FaultTest::mount() {
  home_ = std::make_unique<MountedHome>(*scratch_, MountSetup{});
  home_->expect_log(".");  // faults may be told of
}

void FaultTest::TearDown() {
  if (scratch_ != nullptr) RecordProperty("injected", std::to_string(injected()));
  if (home_ != nullptr) home_->finish();
  home_.reset();
  scratch_.reset();
}

void FaultTest::faults_on(std::string_view rules) {
  // Whole when the daemon sees it, and of another time than any before: the next call is judged by it.
  static time_t version = 0;
  const timespec time{++version, 0};
  const timespec times[2] = {time, time};
  const fs::path file = scratch_->path() / "faults";
  const fs::path next = scratch_->path() / "faults.next";
  std::ofstream(next) << rules << "\n";
  ASSERT_EQ(errno_of(::utimensat(AT_FDCWD, next.c_str(), times, 0)), 0);
  ASSERT_EQ(errno_of(::rename(next.c_str(), file.c_str())), 0);
}

uint64_t FaultTest::injected() const {
  uint64_t count = 0;
  std::ifstream(scratch_->path() / "faults.count") >> count;
  return count;
}

void FaultTest::expect_figures_come_right() {
  for (const std::string& account : home_->accounts()) {
    EXPECT_TRUE(home_->comes_to_rest(account))
        << account << ": used " << home_->used(account) << ", du " << home_->du(account);
  }
}

}  // namespace limaquota::fault_tests
