#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/reclaim/open_disk.hpp"
#include "mount-helpers/reclaim/ranges.hpp"

namespace limaquota {
namespace {

// Smaller holes would win little and cost the backing filesystem an extent each.
constexpr uint64_t raw_granule = uint64_t{16} * 1024;

class RawDisk : public OpenDisk {
 public:
  explicit RawDisk(const DiskLock& lock) : lock_(lock) {
    struct stat status {};
    if (::fstat(lock_.fd(), &status) != 0) fail("cannot read the attributes of");
    size_ = static_cast<uint64_t>(status.st_size);
  }

  Bytes size() const override { return Bytes(size_); }
  uint64_t granule() const override { return raw_granule; }

  // What was allocated ahead and read since may pass for data (the page cache has it); it holds zeros then.
  Layout layout() override {
    Layout layout;
    for (off_t end = 0;;) {
      const off_t start = ::lseek(lock_.fd(), end, SEEK_DATA);
      if (start < 0 && errno == ENXIO) break;
      if (start >= 0) end = ::lseek(lock_.fd(), start, SEEK_HOLE);
      if (start < 0 || end < 0) fail("cannot find the holes of");
      layout.data.push_back({static_cast<uint64_t>(start), static_cast<uint64_t>(end - start)});
    }
    layout.zeros = holes_between(layout.data, size_);
    return layout;
  }

  void read(uint64_t offset, std::span<std::byte> into) override {
    while (!into.empty()) {
      const ssize_t got = ::pread(lock_.fd(), into.data(), into.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got == 0) errno = EIO;  // it became shorter
      if (got <= 0) fail("cannot read");
      into = into.subspan(static_cast<size_t>(got));
      offset += static_cast<uint64_t>(got);
    }
  }

  void punch(ByteRange range) override {
    while (::fallocate(lock_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(range.offset), static_cast<off_t>(range.length)) != 0) {
      if (errno != EINTR) fail("cannot punch holes into");
    }
  }

  void finish() override {
    if (::fsync(lock_.fd()) != 0) fail("cannot sync");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw Refusal(fmt::format("{} {}: {}", what, escape_name(lock_.path().string()), std::strerror(errno)));
  }

  const DiskLock& lock_;
  uint64_t size_ = 0;
};

}  // namespace

std::unique_ptr<OpenDisk> open_raw_disk(const DiskLock& lock) { return std::make_unique<RawDisk>(lock); }

}  // namespace limaquota
