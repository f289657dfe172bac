// limaquota_unmetered mount -f SOURCE MOUNTPOINT: the daemon with data that go by no metering, each function
// of the data path as the bare system call. For bench/run.sh only: it holds no limit. Names are metered as
// ever.
#include <cstdio>
#include <cstring>
#include <memory>

#include "fs/backing/backing.hpp"
#include "fs/daemon/mount_home.hpp"
#include "fs/metering/data_path.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {
namespace {

class UnmeteredIo : public DataPath {
 public:
  explicit UnmeteredIo(Sys& sys) : sys_(sys) {}

#ifdef LIMAQUOTA_EMPTY_WRITE
  // The floor: what a write costs before anything is done with it.
  Result<size_t> write(Inode&, int, const char*, size_t size, uint64_t) override { return size; }
#else
  Result<size_t> write(Inode&, int fd, const char* data, size_t size, uint64_t offset) override {
    return sys_.pwrite(fd, data, size, static_cast<off_t>(offset));
  }
#endif
  Result<void> fallocate(Inode&, int fd, int mode, uint64_t offset, uint64_t length) override {
    return sys_.fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
  }
  Result<void> truncate(Inode&, int fd, uint64_t size) override {
    return sys_.ftruncate(fd, static_cast<off_t>(size));
  }
  Result<size_t> copy(Inode&, int in_fd, uint64_t in_offset, Inode&, int out_fd, uint64_t out_offset,
                      size_t size) override {
    return sys_.copy_file_range(in_fd, static_cast<off_t>(in_offset), out_fd, static_cast<off_t>(out_offset),
                                size);
  }
  Result<void> sync(Inode&, int fd, Synced what) override {
    return what == Synced::data ? sys_.fdatasync(fd) : sys_.fsync(fd);
  }

 private:
  Sys& sys_;
};

}  // namespace
}  // namespace limaquota

int main(int argc, char** argv) {
  if (argc != 5 || std::strcmp(argv[1], "mount") != 0 || std::strcmp(argv[2], "-f") != 0) {
    std::fprintf(stderr, "usage: %s mount -f SOURCE MOUNTPOINT\n", argv[0]);
    return 2;
  }
  limaquota::MountOptions options;
  options.foreground = true;
  options.source = argv[3];
  options.mountpoint = argv[4];
  limaquota::Seams seams;
  seams.make_sys = [](const limaquota::Notes&) { return std::make_unique<limaquota::Sys>(); };
  seams.make_data_path = [](const limaquota::Backing& backing) {
    return std::make_unique<limaquota::UnmeteredIo>(backing.sys());
  };
  return limaquota::mount_home(options, seams);
}
