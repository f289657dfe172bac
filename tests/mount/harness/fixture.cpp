// Scratch directories, the watch for overshoot, and the fixture.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "tests/mount/harness/backings.hpp"
#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

bool as_root() { return ::geteuid() == 0; }

bool over_io_uring() { return std::getenv("LIMAQUOTA_MOUNT_OPTIONS") != nullptr; }

bool sanitized_by(const std::string& sanitizer) {
  // Read once: every sanitizer's run time has an __NAME_init.
  static const std::string program = read_text(limaquota_binary());
  return program.find("__" + sanitizer + "_init") != std::string::npos;
}

bool slow_build() {
  static const bool slow = sanitized_by("asan") || sanitized_by("tsan");
  return slow;
}

Scratch::Scratch(const Filesystem& filesystem) {
  static int count = 0;
  const fs::path own =
      user_directory_name() + std::string("/") + std::to_string(::getpid()) + "." + std::to_string(++count);
  path_ = prepared_directory() / filesystem / own;
  view_ = prepared_directory() / view_directory_name / filesystem / own;
  fs::create_directory(path_);
}

Scratch::~Scratch() {
  std::error_code error;
  fs::remove_all(path_, error);
  if (error) ADD_FAILURE() << "cannot remove " << path_ << ": " << error.message();
}

OvershootWatch::OvershootWatch(const MountedHome& home, std::string account)
    : home_(home), account_(std::move(account)), thread_([this] { run(); }) {}

OvershootWatch::~OvershootWatch() {
  ending_ = true;
  if (thread_.joinable()) thread_.join();
}

void OvershootWatch::run() {
  while (!ending_) {
    sample();
    ++samples_;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// A sum is a sum of several moments: one that would be the largest so far is looked at twice.
void OvershootWatch::sample() {
  const uint64_t sum = home_.du(account_);
  if (sum <= largest_) return;
  const std::vector<fs::path> directories = home_.directories(account_);
  largest_ = std::max<uint64_t>(largest_, directories.empty() ? sum : held_at_least(directories));
}

uint64_t OvershootWatch::stop() {
  ending_ = true;
  if (thread_.joinable()) thread_.join();
  largest_ = std::max<uint64_t>(largest_, home_.du(account_));
  home_.sync_backing();
  return largest_ = std::max<uint64_t>(largest_, home_.du(account_));
}

void MountTest::SetUp() {
  const std::string why = why_not_prepared(GetParam());
  if (!why.empty()) GTEST_SKIP() << why;
  scratch_ = std::make_unique<Scratch>(GetParam());
  fs::create_directory(scratch_->path() / "home");
  prepare(scratch_->path() / "home");
  home_ = std::make_unique<MountedHome>(*scratch_, setup());
}

void MountTest::TearDown() {
  if (home_ != nullptr) home_->finish();
  home_.reset();
  scratch_.reset();
}

}  // namespace limaquota::mount_tests
