// File handles and asynchronous direct I/O: two ways to reach a file beside its name and the page cache.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

class LimaHandlesTest : public MountTest {};

struct Handle {
  file_handle header;
  unsigned char bytes[MAX_HANDLE_SZ];
};

TEST_P(LimaHandlesTest, AFileJustWrittenIsFoundByItsHandleWhenTheKernelForgotIt) {
  if (!as_root()) GTEST_SKIP() << "open_by_handle_at needs CAP_DAC_READ_SEARCH";
  const fs::path vm = home().make_vm("vm");
  ASSERT_EQ(write_text(vm / "written", "text"), 0);
  fs::create_directory(vm / "sub");
  ASSERT_EQ(write_text(vm / "sub" / "below", "deep"), 0);
  for (const fs::path& path : {vm / "written", vm / "sub", vm / "sub" / "below"}) {
    Handle handle{};
    handle.header.handle_bytes = MAX_HANDLE_SZ;
    int mount_id = 0;
    ASSERT_EQ(::name_to_handle_at(AT_FDCWD, path.c_str(), &handle.header, &mount_id, 0), 0) << errno;
    const Fd mount_fd(::open(mount().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    home().forget_unused();
    const Fd found(::open_by_handle_at(mount_fd.get(), &handle.header, O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(found) << path << ": " << std::strerror(errno);
    struct stat by_handle {
    }, by_name{};
    ASSERT_EQ(::fstat(found.get(), &by_handle), 0);
    ASSERT_EQ(::stat(path.c_str(), &by_name), 0);
    EXPECT_EQ(by_handle.st_ino, by_name.st_ino);
  }
}

constexpr size_t direct_size = 640 * KiB;

// One asynchronous write at offset 0, waited for; its result.
int64_t write_asynchronously(aio_context_t context, int fd, const unsigned char* data) {
  iocb control{};
  control.aio_fildes = static_cast<uint32_t>(fd);
  control.aio_lio_opcode = IOCB_CMD_PWRITE;
  control.aio_buf = reinterpret_cast<uint64_t>(data);
  control.aio_nbytes = direct_size;
  iocb* list = &control;
  if (::syscall(SYS_io_submit, context, 1, &list) != 1) return -errno;
  io_event event{};
  if (::syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) != 1) return -errno;
  return event.res;
}

TEST_P(LimaHandlesTest, WhatAnAsynchronousDirectWriteWroteIsReadThroughThePageCache) {
  const fs::path path = home().make_vm("vm") / "file";
  const Fd file = create_file(path);
  ASSERT_EQ(::ftruncate(file.get(), direct_size), 0);
  const Fd direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(direct) << errno;
  aio_context_t context = 0;
  ASSERT_EQ(::syscall(SYS_io_setup, 1, &context), 0);
  std::atomic<bool> stop{false};
  std::thread reader([&] {  // keeps filling the page cache, also while a write is on its way
    std::vector<unsigned char> data(direct_size);
    while (!stop) EXPECT_GE(::pread(file.get(), data.data(), data.size(), 0), 0);
  });
  const std::unique_ptr<unsigned char, decltype(&std::free)> written(
      static_cast<unsigned char*>(std::aligned_alloc(4096, direct_size)), &std::free);
  std::vector<unsigned char> read(direct_size);
  for (int i = 0; i < 300 && !::testing::Test::HasFailure(); ++i) {
    std::memset(written.get(), 1 + i % 200, direct_size);
    EXPECT_EQ(write_asynchronously(context, direct.get(), written.get()), static_cast<int64_t>(direct_size));
    EXPECT_EQ(::pread(file.get(), read.data(), read.size(), 0), static_cast<ssize_t>(direct_size));
    EXPECT_EQ(std::memcmp(read.data(), written.get(), direct_size), 0) << "stale after write " << i;
  }
  stop = true;
  reader.join();
  ::syscall(SYS_io_destroy, context);
}

LIMAQUOTA_ON(LimaHandlesTest, "ext4", "xfs");

}  // namespace
}  // namespace limaquota::mount_tests
