// What a guest, or whoever may write into the tree, might try: sizes at the edge of what there is, headers
// that lie, and ways that lead out of the tree.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <limits>
#include <string>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class DoorsTest : public MountTest {
 protected:
  // The largest file that the backing filesystem allows, found there and not through the mount.
  uint64_t largest_file() {
    const fs::path probe = home().backing() / "probe";
    const Fd file = create_file(probe);
    uint64_t largest = 0;
    for (uint64_t bit = uint64_t{1} << 62; bit > 0; bit /= 2) {
      if (::ftruncate(file.get(), static_cast<off_t>(largest + bit)) == 0) largest += bit;
    }
    fs::remove(probe);
    return largest;
  }
};

TEST_P(DoorsTest, ASparseGiantIsCountedByItsBlocks) {
  const uint64_t largest = largest_file();
  ASSERT_GT(largest, 1000 * GiB);
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(errno_of(::ftruncate(disk.get(), static_cast<off_t>(largest))), 0);
  EXPECT_EQ(home().figure("vm", "virtual"), largest);
  // The last whole MiB, and what is beyond every file.
  const uint64_t end = largest / MiB * MiB;
  EXPECT_EQ(write_range(disk.get(), end - MiB, MiB).error, 0);
  EXPECT_TRUE(has_pattern(disk.get(), end - MiB, MiB));
  EXPECT_LT(::pwrite(disk.get(), "x", 1, std::numeric_limits<off_t>::max()), 0);
  EXPECT_EQ(::lseek(disk.get(), 0, SEEK_DATA), static_cast<off_t>(end - MiB));
  EXPECT_EQ(write_range(disk.get(), end / 2, 32 * MiB).error, ENOSPC);
  EXPECT_NE(errno_of(::fallocate(disk.get(), FALLOC_FL_KEEP_SIZE, 0, std::numeric_limits<off_t>::max())), 0);
  EXPECT_LE(home().du("vm"), 16 * MiB);
  EXPECT_EQ(errno_of(::fallocate(disk.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                 static_cast<off_t>(largest))),
            0);
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_LT(home().used("vm"), MiB);
}

TEST_P(DoorsTest, AHeaderThatLiesChangesNoLimitAndNoFigureButTheVirtualSize) {
  const fs::path vm = home().make_vm("vm");
  home().set_limit("vm", "limit 16MiB\ncontrol_reserve 1MiB\n");
  const Fd disk = create_file(vm / "disk");
  ASSERT_EQ(write_range(disk.get(), 0, MiB).error, 0);
  using Header = std::array<unsigned char, 112>;
  const Header good = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
  // Every field but the magic, filled with each of these.
  constexpr std::array<unsigned char, 5> fillings{0x00, 0x01, 0x7f, 0x80, 0xff};
  for (const unsigned char byte : fillings) {
    for (size_t field = 4; field < good.size(); field += 4) {
      Header lying = good;
      for (size_t i = 0; i < 4; ++i) lying[field + i] = byte;
      ASSERT_EQ(::pwrite(disk.get(), lying.data(), lying.size(), 0), static_cast<ssize_t>(lying.size()));
      ASSERT_TRUE(home().comes_to_rest("vm")) << "field " << field << ", byte " << int{byte};
      ASSERT_EQ(home().figure("vm", "limit"), 16 * MiB);
    }
  }
  EXPECT_EQ(write_range(disk.get(), MiB, 32 * MiB).error, ENOSPC);
  EXPECT_LE(home().du("vm"), 16 * MiB);
}

TEST_P(DoorsTest, TheParentOfTheRootIsNotTheBackings) {
  struct stat root {};
  struct stat parent {};
  ASSERT_EQ(errno_of(::stat((mount() / "..").c_str(), &parent)), 0);
  ASSERT_EQ(errno_of(::stat(mount().parent_path().c_str(), &root)), 0);
  EXPECT_EQ(parent.st_ino, root.st_ino);
  EXPECT_EQ(parent.st_dev, root.st_dev);
  // The names of the virtual trees lead nowhere else.
  EXPECT_EQ(read_text(mount() / ".usage" / ".." / ".usage" / "_host").substr(0, 5), "free ");
  EXPECT_EQ(errno_of(::access((mount() / ".quota" / "..%2f").c_str(), F_OK)), ENOENT);
}

// A line of /proc/PID/status as a number of this base.
uint64_t status_number(const fs::path& process, const std::string& key, int base) {
  std::ifstream file(process / "status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stoull(line.substr(key.size() + 1), nullptr, base);
  }
  ADD_FAILURE() << process << ": no " << key;
  return 0;
}

TEST_P(DoorsTest, TheWorkerKeepsNoPrivilegeThatItDoesNotNeed) {
  if (sanitized_by("tsan")) GTEST_SKIP() << "the thread sanitizer has a thread of its own from before";
  // Of files, of their owners, and CAP_SYS_ADMIN for attributes; see fs/system/caller.cpp.
  constexpr uint64_t files = 0x882000dfU;
  const fs::path worker = "/proc/" + std::to_string(home().worker());
  size_t threads = 0;
  for (const auto& thread : fs::directory_iterator(worker / "task")) {
    ++threads;
    // Of an ordinary user's first worker this one, which only waits, is from before fusermount3 was run.
    if (!as_root() && thread.path().filename() == worker.filename()) continue;
    EXPECT_EQ(status_number(thread, "NoNewPrivs", 10), 1U) << thread;
    for (const char* set : {"CapPrm", "CapEff"})
      EXPECT_EQ(status_number(thread, set, 16) & ~files, 0U) << thread << " " << set;
    // Only root can give that up.
    if (as_root()) {
      EXPECT_EQ(status_number(thread, "CapBnd", 16) & ~files, 0U) << thread;
    }
  }
  EXPECT_GT(threads, 2U);
}

LIMAQUOTA_ON_ALL(DoorsTest);

}  // namespace
}  // namespace limaquota::mount_tests
