#include "fs/metering/made_longer.hpp"

#include <algorithm>

#include "fs/system/log.hpp"

namespace limaquota {

Result<void> MadeLonger::before(Inode& inode, ByteRange range, const Need& need) {
  range_ = range;
  if (!need.exact || !backing_.rules().preallocates()) return {};
  // What is known of the size may be old: a truncation must never make a file shorter.
  const auto st = backing_.sys().fstat(fd_);
  if (!st) return st.error();
  inode.size = static_cast<uint64_t>(st->st_size);
  if (range.end() <= inode.size) return {};
  const auto longer = backing_.sys().ftruncate(fd_, static_cast<off_t>(range.end()));
  longer_ = longer.operator bool();
  return longer;
}

// `inode.size` is what `before` saw, and the inode's mutex was held since.
void MadeLonger::after(Inode& inode, uint64_t written) {
  if (!longer_ || written >= range_.length) return;
  const uint64_t size = std::max(inode.size, written == 0 ? 0 : range_.offset + written);
  if (!backing_.sys().ftruncate(fd_, static_cast<off_t>(size))) {
    log_error("cannot shorten inode {} again after a failed write", inode.id);
  }
  inode.map.truncate((size + backing_.block() - 1) / backing_.block());
}

}  // namespace limaquota
