#include "fs/metering/metered_io.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/metering/made_longer.hpp"

namespace limaquota {

Result<size_t> MeteredIo::write_granted(Inode& inode, int fd, const char* data, ByteRange range,
                                        const Need& need) {
  MadeLonger longer(backing_, fd);
  if (const auto made = longer.before(inode, range, need); !made) return made.error();
  auto written = backing_.sys().pwrite(fd, data, range.length, static_cast<off_t>(range.offset));
  const uint64_t got = written ? *written : 0;
  longer.after(inode, got);
  if (got > 0) {
    inode.map.set(ByteRange{range.offset, got}.blocks(backing_.block()), BlockState::written,
                  steady_seconds());
  }
  return written;
}

Result<size_t> MeteredIo::write(Inode& inode, int fd, const char* data, size_t size, uint64_t offset) {
  if (size == 0) return size_t{0};
  const MutexLock lock(inode.mutex);
  if (needs_.is_in_place(inode, fd, {offset, size})) {
    auto overwritten = backing_.sys().pwrite(fd, data, size, static_cast<off_t>(offset));
    if (!overwritten || *overwritten < size) charges_.finish(inode, fd, Reservation(), {});
    return overwritten;
  }
  auto grant = admission_.admit(inode, fd, {offset, size});
  if (!grant) return grant.error();
  late_.expect(inode, grant->need.extents);
  auto written = write_granted(inode, fd, data, {offset, grant->length}, grant->need);
  if (!written && grant->need.exact) grant->need.unwritten = 0;  // still unwritten, as far as the map knows
  charges_.finish(inode, fd, std::move(grant->reservation), grant->need);
  return written;
}

Result<void> MeteredIo::fallocate(Inode& inode, int fd, int mode, uint64_t offset, uint64_t length) {
  return ranges_.fallocate(inode, fd, mode, {offset, length});
}

Result<void> MeteredIo::truncate(Inode& inode, int fd, uint64_t size) {
  return ranges_.truncate(inode, fd, size);
}

Result<size_t> MeteredIo::copy(Inode& in, int in_fd, uint64_t in_offset, Inode& out, int out_fd,
                               uint64_t out_offset, size_t size) {
  return ranges_.copy({in, in_fd, in_offset}, {out, out_fd, out_offset}, size);
}

Result<void> MeteredIo::sync(Inode& inode, int fd, Synced what) {
  uint64_t before = 0;
  uint64_t settled = 0;
  {
    const MutexLock lock(inode.mutex);
    before = inode.unsettled;
    settled = inode.settled;
  }
  const auto result = what == Synced::data ? backing_.sys().fdatasync(fd) : backing_.sys().fsync(fd);
  const MutexLock lock(inode.mutex);
  if (inode.dead) return result;
  if (!result) inode.map = AllocationMap();
  const auto st = backing_.sys().fstat(fd);
  if (result && st && settled == inode.settled) {
    // Writes that came meanwhile may not be on disk: they stay counted.
    before = std::min(before, inode.unsettled);
    inode.unsettled -= before;
    ++inode.settled;
    inode.dirty_since = std::chrono::steady_clock::now();
    const uint64_t blocks = backing_.blocks_of(*st) + 1;
    inode.extents_at_most = std::min(inode.extents_at_most + before, blocks);
    if (before > 0) inode.extents_counted = false;
    inode.is_unknown = false;
    inode.unknown_growth = Bytes(0);
  }
  if (st) charges_.observe(inode, *st);
  return result;
}

}  // namespace limaquota
