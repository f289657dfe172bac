#include "tests/mount/harness/own_filesystem.hpp"

#include <sys/mount.h>
#include <unistd.h>

namespace limaquota::mount_tests {

std::string OwnFilesystemTest::on_loop(const std::string& mkfs) {
  const fs::path image = scratch_->path() / "image";
  const Fd fd = create_file(image);
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(GiB + GiB / 2)), 0);
  EXPECT_EQ(run(mkfs + " " + quoted(image)).status, 0);
  return "-o loop " + quoted(image);
}

void OwnFilesystemTest::SetUp() {
  if (has_own() && !as_root()) GTEST_SKIP() << "only root can mount a filesystem of the test's own";
  MountTest::SetUp();
}

void OwnFilesystemTest::prepare(const fs::path& path) {
  if (!has_own()) return;
  ASSERT_EQ(run("mount " + own_filesystem() + " " + quoted(path)).status, 0);
  ASSERT_EQ(::mount(path.c_str(), (scratch_->view() / "home").c_str(), nullptr, MS_BIND, nullptr), 0);
  mounted_ = true;
}

void OwnFilesystemTest::TearDown() {
  if (!home_ || !mounted_) return MountTest::TearDown();
  home().finish();
  home_.reset();
  EXPECT_EQ(errno_of(::umount2((scratch_->view() / "home").c_str(), MNT_DETACH)), 0);
  EXPECT_EQ(errno_of(::umount2((scratch_->path() / "home").c_str(), MNT_DETACH)), 0);
  scratch_.reset();
}

}  // namespace limaquota::mount_tests
