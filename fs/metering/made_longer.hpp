// A file made as long as a write will make it, before the write.
#pragma once

#include <cstdint>

#include "accounting/bytes.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/need.hpp"

namespace limaquota {

// XFS preallocates past the end of a file, but not inside: near a limit the file is made longer first, so
// that the write allocates what it needs and no more. Lives during one write, under the inode's mutex.
class MadeLonger {
 public:
  MadeLonger(const Backing& backing, int fd) : backing_(backing), fd_(fd) {}

  // Where that is needed for a change of this range.
  Result<void> before(Inode& inode, ByteRange range, const Need& need) REQUIRES(inode.mutex);
  // So much was written, from the beginning of the range: a rest that is not there is taken off again.
  void after(Inode& inode, uint64_t written) REQUIRES(inode.mutex);

 private:
  const Backing& backing_;
  const int fd_;
  ByteRange range_;
  bool longer_ = false;
};

}  // namespace limaquota
