#include "fs/backing/backing.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "fs/backing/filesystems.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {
namespace {

AllocationRules rules_below(Sys& sys, int root, std::string_view mount_options) {
  const auto fs = sys.fstatfs(root);
  return fs ? rules_of(*fs, mount_options) : unknown_rules(4096);
}

}  // namespace

Backing::Backing(Sys& sys, Fd root, std::string_view mount_options)
    : sys_(sys), root_(std::move(root)), rules_(rules_below(sys, root_.get(), mount_options)) {}

Result<Fd> Backing::open(int dir, const char* name, int flags, mode_t mode) const {
  constexpr int most_waits = 50;
  auto fd = sys_.openat(dir, name, flags, mode);
  for (int i = 0; i < most_waits && !fd && fd.error().value == EMFILE; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fd = sys_.openat(dir, name, flags, mode);
  }
  return fd;
}

Bytes Backing::metadata(size_t value_size) const {
  return rules_.name_space +
         (rules_.values_in_blocks ? round_up(Bytes(value_size), Bytes(rules_.block)) : Bytes(0));
}

Bytes Backing::free_bytes() const {
  const auto fs = sys_.fstatvfs(root_.get());
  if (!fs) return Bytes(0);
  if (fs->f_blocks == 0) return Bytes::unlimited();
  return Bytes(static_cast<uint64_t>(fs->f_bavail) * fs->f_frsize);
}

HostSample Backing::host_sample(const Ledger& ledger) const {
  HostSample sample = ledger.before_host_sample();
  sample.free = free_bytes();
  if (rules_.free_space_lags) sample.allocated_before = allocated_at_sync_;
  return sample;
}

bool Backing::sync() const {
  const auto root = sys_.openat(root_.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  return root && sys_.syncfs(root->get());
}

bool Backing::sync_host(const Ledger& ledger) const {
  if (!rules_.free_space_lags) return false;
  const uint64_t allocated = ledger.before_host_sample().allocated_before;
  if (allocated == allocated_at_sync_) return false;
  if (!sync()) return false;
  allocated_at_sync_ = allocated;
  return true;
}

AllocationMap::Fill Backing::fill_from(int fd, uint64_t size, PastEnd past_end,
                                       std::function<void()> on_shared) const {
  return [this, fd, size, past_end, on_shared = std::move(on_shared)](
             BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
    const uint64_t file_end = ByteRange{0, size}.blocks(rules_.block).end();
    constexpr size_t batch = 512;
    uint64_t at = range.first * rules_.block;
    const uint64_t end = range.end() * rules_.block;
    while (at < end) {
      const auto extents = sys_.extents(fd, at, end - at, batch);
      if (!extents) {
        if (extents.error().value != ENOTSUP && extents.error().value != EOPNOTSUPP) return extents.error();
        break;
      }
      for (const Extent& extent : *extents) {
        const BlockRange blocks = ByteRange{extent.offset, extent.length}.blocks(rules_.block);
        at = std::max(at, extent.offset + extent.length);
        if (extent.shared) {
          on_shared();
          continue;
        }
        const bool whole = extent.unwritten && past_end == PastEnd::stays;
        const uint64_t stays_to = whole ? blocks.end() : std::min(blocks.end(), file_end);
        if (blocks.first < stays_to)
          sink({blocks.first, stays_to - blocks.first},
               extent.unwritten ? BlockState::unwritten : BlockState::written);
      }
      if (extents->size() < batch) return {};
    }
    while (at < end) {
      const auto data = sys_.lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (!data) return data.error().value == ENXIO ? Result<void>() : Result<void>(data.error());
      const auto hole = sys_.lseek(fd, *data, SEEK_HOLE);
      if (!hole) return hole.error();
      if (static_cast<uint64_t>(*data) >= end) break;
      sink(ByteRange{static_cast<uint64_t>(*data), static_cast<uint64_t>(*hole - *data)}.blocks(rules_.block),
           BlockState::written);
      at = static_cast<uint64_t>(*hole);
    }
    return {};
  };
}

// A directory of one block (on ext4 and XFS) holds a name for sure when its present entries, at their largest
// form (8 + 8 bytes and the name, rounded up), fill no more than half of it: whatever the gaps between them,
// one of them is large enough only then. A directory without blocks lies in its inode, where only a few bytes
// are sure.
bool Backing::directory_has_room(int dir, size_t name_length) const {
  if (rules_.directories == DirectorySpace::unblocked) return true;
  const auto st = sys_.fstat(dir);
  if (!st) return false;
  const uint64_t allocated = Bytes::of_st_blocks(st->st_blocks).count();
  if (allocated > rules_.block) return false;
  const auto readable = sys_.openat(dir, ".", O_RDONLY | O_DIRECTORY, 0);
  if (!readable) return false;
  uint64_t bytes = 0;
  uint64_t entries = 2;  // "." and ".."
  const auto names = read_names(sys_, readable->get());
  if (!names) return false;
  for (const std::string& name : *names) {
    bytes += 24 + name.size();
    ++entries;
  }
  const uint64_t wanted = 24 + name_length;
  if (allocated == 0) return rules_.directories == DirectorySpace::inode_or_blocks && bytes + wanted <= 160;
  // n entries leave at most n gaps: the free bytes, spread evenly, must still hold the name in one of them.
  return bytes + wanted * (entries + 1) <= rules_.block - 64;
}

}  // namespace limaquota
