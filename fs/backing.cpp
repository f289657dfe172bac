#include "fs/backing.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "fs/read_names.hpp"

namespace limaquota {
namespace {

constexpr long xfs_magic = 0x58465342;
constexpr uint64_t huge_page = uint64_t{2} << 20;
// XFS never preallocates more than its longest extent, 2^21 - 1 blocks (xfs_iomap_prealloc_size), and at
// least the mount's allocsize, 64 KiB unless set.
constexpr uint64_t xfs_longest_extent_blocks = (uint64_t{1} << 21) - 1;
constexpr uint64_t xfs_default_allocsize = uint64_t{64} << 10;
constexpr uint64_t xfs_default_cow_blocks = 32;  // XFS_DEFAULT_COWEXTSZ_HINT

// The value of `name=` among comma separated options, or nothing.
std::string_view option_value(std::string_view options, std::string_view name) {
  while (!options.empty()) {
    const size_t comma = options.find(',');
    const std::string_view option = options.substr(0, comma);
    if (option.size() > name.size() && option.starts_with(name) && option[name.size()] == '=') {
      return option.substr(name.size() + 1);
    }
    options = comma == std::string_view::npos ? std::string_view() : options.substr(comma + 1);
  }
  return {};
}

// ext4's cluster, from sysfs; the block where there is none (no bigalloc).
uint64_t ext4_cluster(const struct statfs& fs, uint64_t block) {
  // With bigalloc, free space is counted in whole clusters: the kernel scales block counts by the ratio,
  // so all of them are multiples of it. The largest power of two that divides them bounds the cluster; a
  // plain filesystem is told apart by its odd counts, and by 16 being the mkfs default ratio.
  uint64_t all = static_cast<uint64_t>(fs.f_bfree) | static_cast<uint64_t>(fs.f_bavail);
  if (all == 0) return block;
  const uint64_t ratio = all & (~all + 1);
  return ratio >= 16 ? block * std::min<uint64_t>(ratio, 256) : block;
}

}  // namespace

Backing::Backing(Sys& sys, Fd root, std::string_view mount_options) : sys_(sys), root_(std::move(root)) {
  if (const auto st = sys_.fstat(root_.get())) device_ = st->st_dev;
  struct statfs fs {};
  if (::fstatfs(root_.get(), &fs) < 0) return;
  block_ = std::max<uint64_t>(512, static_cast<uint64_t>(fs.f_bsize));
  unit_ = block_;
  slack_ = SlackModel::xfs(block_);  // the larger of the two, for what we do not know
  if (fs.f_type == EXT4_SUPER_MAGIC) {
    kind_ = BackingKind::ext4;
    slack_ = SlackModel::ext4(block_);
    unit_ = ext4_cluster(fs, block_);
    slack_.unit = unit_;
  } else if (fs.f_type == xfs_magic) {
    kind_ = BackingKind::xfs;
    const std::string_view set = option_value(mount_options, "allocsize");
    if (!set.empty()) least_preallocation_ = std::strtoull(std::string(set).c_str(), nullptr, 10) * 1024;
    largest_preallocation_ = std::max(xfs_longest_extent_blocks * block_, least_preallocation_);
  } else if (fs.f_type == BTRFS_SUPER_MAGIC) {
    kind_ = BackingKind::btrfs;
    slack_ = SlackModel::none();
  } else if (fs.f_type == TMPFS_MAGIC) {
    kind_ = BackingKind::tmpfs;
    slack_ = SlackModel::none();
    const std::string_view huge = option_value(mount_options, "huge");
    if (!huge.empty() && huge != "never") unit_ = huge_page;
  }
}

Result<Fd> Backing::open(int dir, const char* name, int flags, mode_t mode) const {
  constexpr int most_waits = 50;
  auto fd = sys_.openat(dir, name, flags, mode);
  for (int i = 0; i < most_waits && !fd && fd.error().value == EMFILE; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fd = sys_.openat(dir, name, flags, mode);
  }
  return fd;
}

uint64_t Backing::cow_unit(const ExtentHints& hints) const {
  if (kind_ != BackingKind::xfs) return block_;
  return std::max(hints.cow_extent_size, xfs_default_cow_blocks * block_);
}

// Twice the extent before the write, which is no longer than the file, rounded to a power of two; and all
// that the mount option `allocsize` says, behind the smallest file.
Bytes Backing::speculative(uint64_t end) const {
  if (kind_ != BackingKind::xfs) return Bytes(0);
  const uint64_t doubled = std::max(end, xfs_default_allocsize) * 2;
  return Bytes(std::min(std::max(doubled, least_preallocation_), largest_preallocation_));
}

// Directory blocks, their tree, an inherited ACL and the new file's first block: under 16 blocks on every
// filesystem; with bigalloc, clusters.
Bytes Backing::metadata(size_t value_size) const {
  if (kind_ == BackingKind::tmpfs) return Bytes(2 * 4096);
  const Bytes base = std::max(Bytes(16 * block_), Bytes(unit_ == block_ ? 0 : 4 * unit_));
  return base + round_up(Bytes(value_size), Bytes(block_));
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
  if (kind_ == BackingKind::btrfs) sample.allocated_before = allocated_at_sync_;
  return sample;
}

bool Backing::sync() const {
  const auto root = sys_.openat(root_.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  return root && sys_.syncfs(root->get());
}

bool Backing::sync_host(const Ledger& ledger) const {
  if (kind_ != BackingKind::btrfs) return false;
  const uint64_t allocated = ledger.before_host_sample().allocated_before;
  if (allocated == allocated_at_sync_) return false;
  if (!sync()) return false;
  allocated_at_sync_ = allocated;
  return true;
}

AllocationMap::Fill Backing::fill_from(int fd, uint64_t size, bool stays_past_end, bool* shared) const {
  return [this, fd, size, stays_past_end, shared](BlockRange range,
                                                  const AllocationMap::Sink& sink) -> Result<void> {
    const uint64_t file_end = ByteRange{0, size}.blocks(block_).end();
    constexpr size_t batch = 512;
    uint64_t at = range.first * block_;
    const uint64_t end = range.end() * block_;
    while (at < end) {
      const auto extents = sys_.extents(fd, at, end - at, batch);
      if (!extents) {
        if (extents.error().value != ENOTSUP && extents.error().value != EOPNOTSUPP) return extents.error();
        break;
      }
      for (const Extent& extent : *extents) {
        const BlockRange blocks = ByteRange{extent.offset, extent.length}.blocks(block_);
        at = std::max(at, extent.offset + extent.length);
        if (extent.shared) *shared = true;
        if (extent.shared) continue;
        const bool whole = extent.unwritten && stays_past_end;
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
      sink(ByteRange{static_cast<uint64_t>(*data), static_cast<uint64_t>(*hole - *data)}.blocks(block_),
           BlockState::written);
      at = static_cast<uint64_t>(*hole);
    }
    return {};
  };
}

// tmpfs and btrfs directories occupy no blocks of their own. On ext4 and XFS a directory of one block holds a
// name for sure when its present entries, at their largest form (8 + 8 bytes and the name, rounded up),
// fill no more than half of it: whatever the gaps between them, one of them is large enough only then. A
// directory without blocks lies in its inode, where only a few bytes are sure.
bool Backing::directory_has_room(int dir, size_t name_length) const {
  if (kind_ == BackingKind::tmpfs || kind_ == BackingKind::btrfs) return true;
  const auto st = sys_.fstat(dir);
  if (!st) return false;
  const uint64_t allocated = static_cast<uint64_t>(st->st_blocks) * 512;
  if (allocated > block_) return false;
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
  if (allocated == 0) return kind_ == BackingKind::xfs && bytes + wanted <= 160;
  // n entries leave at most n gaps: the free bytes, spread evenly, must still hold the name in one of them.
  return bytes + wanted * (entries + 1) <= block_ - 64;
}

}  // namespace limaquota
