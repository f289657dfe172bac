// Metered I/O: reserve, system call, commit. The reservation is made before the system call, so a limit is
// never exceeded, not for a moment.
//
// Three ways through a write. What the allocation map knows to be in place is only written. Far from every
// limit the whole range is reserved whatever the map says. Where that does not fit, the map says what the
// write needs exactly; where that does not fit either, room is made (fs/metering/admission.hpp), and then as
// much is written as fits.
#pragma once

#include "fs/backing/backing.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/data_path.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/late_metadata.hpp"
#include "fs/metering/metered_ranges.hpp"
#include "fs/metering/need.hpp"

namespace limaquota {

// The data path that keeps limits.
class MeteredIo : public DataPath {
 public:
  MeteredIo(const Backing& backing, const LateMetadata& late, const Needs& needs, InodeCharges& charges,
            Admission& admission, MeteredRanges& ranges)
      : backing_(backing),
        late_(late),
        needs_(needs),
        charges_(charges),
        admission_(admission),
        ranges_(ranges) {}

  Result<size_t> write(Inode& inode, int fd, const char* data, size_t size, uint64_t offset) override;
  Result<void> fallocate(Inode& inode, int fd, int mode, uint64_t offset, uint64_t length) override;
  Result<void> truncate(Inode& inode, int fd, uint64_t size) override;
  Result<size_t> copy(Inode& in, int in_fd, uint64_t in_offset, Inode& out, int out_fd, uint64_t out_offset,
                      size_t size) override;
  Result<void> sync(Inode& inode, int fd, Synced what) override;

 private:
  Result<size_t> write_granted(Inode& inode, int fd, const char* data, ByteRange range, const Need& need)
      REQUIRES(inode.mutex);

  const Backing& backing_;
  const LateMetadata& late_;
  const Needs& needs_;
  InodeCharges& charges_;
  Admission& admission_;
  MeteredRanges& ranges_;
};

}  // namespace limaquota
