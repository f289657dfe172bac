// Thousands of files of few blocks, whose extents lie in their inodes: more than are kept an eye on one by
// one. The limit is as hard, and nothing comes late.
#include <fcntl.h>
#include <fmt/format.h>

#include <random>

#include "tests/mount/harness/full_account.hpp"
#include "tests/mount/harness/own_filesystem.hpp"

namespace limaquota::mount_tests {
namespace {

constexpr uint64_t limit = 24 * MiB;
constexpr int most_files = 20000;

// Makes files of one to five single blocks, far from each other, until one is refused; how many were made.
int fill_with_small_files(const fs::path& directory, uint64_t block) {
  std::mt19937_64 random(3);
  for (int made = 0; made < most_files; ++made) {
    const fs::path path = directory / fmt::format("file{}", made);
    const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0644));
    if (!file) return made;
    for (uint64_t blocks = 1 + random() % 5; blocks > 0; --blocks) {
      const Written written = write_range(file.get(), random() % 4096 * block, block);
      if (written.error != 0) return made;
    }
  }
  return most_files;
}

void expect_within_the_limit(MountedHome& home, uint64_t block, int at_least) {
  const fs::path vm = home.make_vm("vm");
  home.set_limit("vm", "limit 24MiB\ncontrol_reserve 4MiB\n");
  OvershootWatch watch(home, "vm");
  const int made = fill_with_small_files(vm, block);
  EXPECT_GT(made, at_least);
  EXPECT_LT(made, most_files);
  EXPECT_LE(watch.stop(), limit);
}

class SmallFilesTest : public MountTest {};

TEST_P(SmallFilesTest, StayWithinTheLimitAndNothingComesLate) {
  expect_within_the_limit(home(), block(), 1000);
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

LIMAQUOTA_ON_ALL(SmallFilesTest);

// An ext4 that maps blocks in the old way: one block far into a file takes up to three more.
class BlockMappedTest : public OwnFilesystemTest {
 protected:
  std::string own_filesystem() override { return on_loop("mkfs.ext4 -q -F -O ^extents,^64bit"); }
};

TEST_P(BlockMappedTest, SmallFilesStayWithinTheLimit) { expect_within_the_limit(home(), block(), 100); }

TEST_P(BlockMappedTest, SparseDiskStaysWithinTheLimit) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 24MiB\ncontrol_reserve 1MiB\n");
  OvershootWatch watch(home(), "vm");
  const Fd disk = create_file(vm / "disk");
  EXPECT_EQ(write_scattered(disk.get(), 0, 64 * GiB, 4 * KiB, 4 * MiB).error, ENOSPC);
  EXPECT_EQ(::fsync(disk.get()), 0);
  EXPECT_LE(watch.stop(), limit);
}

LIMAQUOTA_ON(BlockMappedTest, "ext4");

}  // namespace
}  // namespace limaquota::mount_tests
