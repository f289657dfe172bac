// What QEMU and limactl clone do with disk images: holes, zeroes, copies, direct I/O, mappings.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tests/mount/harness/limited_vm.hpp"

namespace limaquota::mount_tests {
namespace {

class LimaDisksTest : public LimitedVmTest {
 protected:
  LimaDisksTest() : LimitedVmTest("1GiB") {}
  void SetUp() override {
    LimitedVmTest::SetUp();
    if (home_ == nullptr) return;
    disk_ = create_file(vm_ / "disk");
  }
  void TearDown() override {
    disk_.close();
    MountTest::TearDown();
  }
  bool is_zero(uint64_t offset, uint64_t length) {
    std::vector<char> data(length, 'x');
    return ::pread(disk_.get(), data.data(), length, static_cast<off_t>(offset)) ==
               static_cast<ssize_t>(length) &&
           data == std::vector<char>(length, 0);
  }

  Fd disk_;
};

TEST_P(LimaDisksTest, PunchingGivesBlocksBack) {
  // Its size first, as a disk has it: XFS allocates ahead where a file grows.
  ASSERT_EQ(errno_of(::ftruncate(disk_.get(), 16 * MiB)), 0);
  ASSERT_EQ(write_range(disk_.get(), 0, 8 * MiB).error, 0);
  ASSERT_EQ(errno_of(::fallocate(disk_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * MiB, 4 * MiB)),
            0);
  EXPECT_TRUE(is_zero(2 * MiB, 4 * MiB));
  EXPECT_TRUE(has_pattern(disk_.get(), 0, 2 * MiB));
  EXPECT_TRUE(has_pattern(disk_.get(), 6 * MiB, 2 * MiB));
  EXPECT_TRUE(home().comes_to_rest("vm"));
  EXPECT_LT(home().used("vm"), 5 * MiB);
}

TEST_P(LimaDisksTest, ZeroRangeReadsAsZerosAndStaysAllocated) {
  ASSERT_EQ(write_range(disk_.get(), 0, 4 * MiB).error, 0);
  const int error = errno_of(::fallocate(disk_.get(), FALLOC_FL_ZERO_RANGE, 1 * MiB, 2 * MiB));
  const Fd beneath = open_file(home().backing() / "vm" / "disk", O_RDWR);
  EXPECT_EQ(error,
            errno_of(::fallocate(beneath.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 1 * MiB, 4096)));
  if (error != 0) return;
  EXPECT_TRUE(is_zero(1 * MiB, 2 * MiB));
  EXPECT_GE(home().used("vm"), 4 * MiB);
}

TEST_P(LimaDisksTest, FallocateAllocatesAndKeepsOrSetsTheSize) {
  ASSERT_EQ(errno_of(::fallocate(disk_.get(), FALLOC_FL_KEEP_SIZE, 0, 4 * MiB)), 0);
  EXPECT_EQ(fs::file_size(vm_ / "disk"), 0U);
  EXPECT_GE(home().used("vm"), 4 * MiB);
  ASSERT_EQ(errno_of(::fallocate(disk_.get(), 0, 0, 6 * MiB)), 0);
  EXPECT_EQ(fs::file_size(vm_ / "disk"), 6 * MiB);
  EXPECT_GE(allocated(vm_ / "disk"), 6 * MiB);
}

TEST_P(LimaDisksTest, HolesAreFoundBySeeking) {
  ASSERT_EQ(errno_of(::ftruncate(disk_.get(), 64 * MiB)), 0);
  ASSERT_EQ(write_range(disk_.get(), 16 * MiB, 1 * MiB).error, 0);
  EXPECT_EQ(::lseek(disk_.get(), 0, SEEK_DATA), static_cast<off_t>(16 * MiB));
  EXPECT_EQ(::lseek(disk_.get(), 0, SEEK_HOLE), 0);
  EXPECT_EQ(::lseek(disk_.get(), 16 * MiB, SEEK_HOLE), static_cast<off_t>(17 * MiB));
  EXPECT_EQ(errno_of(::lseek(disk_.get(), 17 * MiB, SEEK_DATA)), ENXIO);
}

// limactl clone: SEEK_DATA and copy_file_range, to which a copy of 0 bytes is fatal.
TEST_P(LimaDisksTest, ACloneKeepsDataAndHoles) {
  ASSERT_EQ(errno_of(::ftruncate(disk_.get(), 64 * MiB)), 0);
  ASSERT_EQ(write_range(disk_.get(), 8 * MiB, 3 * MiB).error, 0);
  const fs::path clone = home().make_vm("clone");
  const Fd copy = create_file(clone / "disk");
  ASSERT_EQ(errno_of(::ftruncate(copy.get(), 64 * MiB)), 0);
  off_t from = ::lseek(disk_.get(), 0, SEEK_DATA);
  const off_t end = ::lseek(disk_.get(), from, SEEK_HOLE);
  off_t to = from;
  while (from < end)
    ASSERT_GT(::copy_file_range(disk_.get(), &from, copy.get(), &to, static_cast<size_t>(end - from), 0), 0);
  EXPECT_TRUE(has_pattern(copy.get(), 8 * MiB, 3 * MiB));
  EXPECT_LT(allocated(clone / "disk"), 4 * MiB);
  EXPECT_TRUE(home().comes_to_rest("clone"));
}

// A disk that is only read is read through the page cache, one that is written by direct I/O.
TEST_P(LimaDisksTest, WhatIsReadIsWhatWasWrittenWhoeverOpenedFirst) {
  const auto reader = [&] { return open_file(vm_ / "disk", O_RDONLY); };
  ASSERT_EQ(write_range(disk_.get(), 0, 4 * MiB, 64 * KiB, 1).error, 0);
  {
    const Fd beside_a_writer = reader();
    EXPECT_TRUE(has_pattern(beside_a_writer.get(), 0, 4 * MiB, 1));
    ASSERT_EQ(write_range(disk_.get(), 1 * MiB, 1 * MiB, 64 * KiB, 2).error, 0);
    EXPECT_TRUE(has_pattern(beside_a_writer.get(), 1 * MiB, 1 * MiB, 2));
  }
  disk_.close();
  Fd first = reader();
  EXPECT_TRUE(has_pattern(first.get(), 1 * MiB, 1 * MiB, 2));
  disk_ = open_file(vm_ / "disk", O_RDWR);
  ASSERT_EQ(write_range(disk_.get(), 2 * MiB, 1 * MiB, 64 * KiB, 3).error, 0);
  EXPECT_TRUE(has_pattern(first.get(), 2 * MiB, 1 * MiB, 3));
  disk_.close();
  first.close();
  for (uint32_t seed = 4; seed < 8; ++seed) {
    // Alternating: what the page cache holds of before is not what is read after.
    disk_ = open_file(vm_ / "disk", O_WRONLY);
    ASSERT_EQ(write_range(disk_.get(), 0, 4 * MiB, 64 * KiB, seed).error, 0);
    disk_.close();
    EXPECT_TRUE(has_pattern(reader().get(), 0, 4 * MiB, seed));
  }
}

TEST_P(LimaDisksTest, ManyWritersOfOneDiskKeepApart) {
  constexpr uint32_t writers = 8;
  ASSERT_EQ(errno_of(::ftruncate(disk_.get(), writers * MiB)), 0);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < writers; ++i) {
    threads.emplace_back([&, i] {
      for (int again = 0; again < 4; ++again)
        EXPECT_EQ(write_range(disk_.get(), i * MiB, 1 * MiB, 4 * KiB, i + 1).error, 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint32_t i = 0; i < writers; ++i) EXPECT_TRUE(has_pattern(disk_.get(), i * MiB, 1 * MiB, i + 1));
  EXPECT_TRUE(home().comes_to_rest("vm"));
}

TEST_P(LimaDisksTest, OpensWithAndWithoutDirectIoSeeEachOthersWrites) {
  ASSERT_EQ(write_range(disk_.get(), 0, 1 * MiB).error, 0);
  const Fd direct(::open((vm_ / "disk").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!direct) {
    EXPECT_EQ(filesystem(), "tmpfs");
    return;
  }
  std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(4096, 65536), &std::free);
  ASSERT_EQ(::pread(direct.get(), buffer.get(), 65536, 0), 65536);
  std::memset(buffer.get(), 'd', 65536);
  ASSERT_EQ(::pwrite(direct.get(), buffer.get(), 65536, 65536), 65536);
  std::array<char, 3> seen = {};
  ASSERT_EQ(::pread(disk_.get(), seen.data(), 2, 65536), 2);
  EXPECT_STREQ(seen.data(), "dd");
  ASSERT_EQ(::pwrite(disk_.get(), "bb", 2, 65536), 2);
  ASSERT_EQ(::pread(direct.get(), buffer.get(), 4096, 65536), 4096);
  EXPECT_EQ(std::memcmp(buffer.get(), "bbdd", 4), 0);
}

TEST_P(LimaDisksTest, AControlFileIsMappedSharedAndStoresReachIt) {
  const Fd file = create_file(vm_ / "state.db");
  ASSERT_EQ(write_range(file.get(), 0, 65536).error, 0);
  char* map = static_cast<char*>(::mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(map, MAP_FAILED);
  std::string_view("stored").copy(map + 5000, 6);
  EXPECT_EQ(errno_of(::msync(map, 65536, MS_SYNC)), 0);
  ::munmap(map, 65536);
  std::array<char, 7> seen = {};
  const Fd beneath = open_file(home().backing() / "vm" / "state.db", O_RDONLY);
  ASSERT_EQ(::pread(beneath.get(), seen.data(), 6, 5000), 6);
  EXPECT_STREQ(seen.data(), "stored");
}

TEST_P(LimaDisksTest, AppendingWritersDoNotOverwriteEachOther) {
  const fs::path log = vm_ / "serial.log";
  create_file(log);
  std::vector<std::thread> writers;
  writers.reserve(4);
  for (int i = 0; i < 4; ++i) {
    writers.emplace_back([&] {
      const Fd fd = open_file(log, O_WRONLY | O_APPEND);
      for (int j = 0; j < 200; ++j) EXPECT_EQ(::write(fd.get(), "0123456789", 10), 10);
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(fs::file_size(log), 8000U);
}

LIMAQUOTA_ON_ALL(LimaDisksTest);

}  // namespace
}  // namespace limaquota::mount_tests
