// limaquota with accounting compiled to pass: every function of MeteredIo that the filesystem calls, as the
// bare system call. Linked before the filesystem's library, so that its own are not taken. For bench/run.sh
// only: it holds no limit.
#include "fs/metering/metered_io.hpp"

namespace limaquota {

uint32_t steady_seconds() { return 0; }

#ifdef LIMAQUOTA_EMPTY_WRITE
// The floor: what a write costs before anything is done with it.
Result<size_t> MeteredIo::write(Inode&, int, const char*, size_t size, uint64_t) { return size; }
#else
Result<size_t> MeteredIo::write(Inode&, int fd, const char* data, size_t size, uint64_t offset) {
  return backing_.sys().pwrite(fd, data, size, static_cast<off_t>(offset));
}
#endif

Result<void> MeteredIo::fallocate(Inode&, int fd, int mode, uint64_t offset, uint64_t length) {
  return backing_.sys().fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
}

Result<void> MeteredIo::truncate(Inode&, int fd, uint64_t size) {
  return backing_.sys().ftruncate(fd, static_cast<off_t>(size));
}

Result<size_t> MeteredIo::copy(Inode&, int in_fd, uint64_t in_offset, Inode&, int out_fd, uint64_t out_offset,
                               size_t size) {
  return backing_.sys().copy_file_range(in_fd, static_cast<off_t>(in_offset), out_fd,
                                        static_cast<off_t>(out_offset), size);
}

Result<void> MeteredIo::sync(Inode&, int fd, bool data_only) {
  return data_only ? backing_.sys().fdatasync(fd) : backing_.sys().fsync(fd);
}

Result<Reservation> MeteredIo::reserve(const Claims&, Line, bool) { return Reservation(); }

void MeteredIo::commit(Reservation, std::initializer_list<Inode*>) {}
void MeteredIo::commit(Reservation, std::initializer_list<Inode*>, Changes&) {}
void MeteredIo::observe(Inode&, const struct stat&) {}
void MeteredIo::observe(Inode&) {}
void MeteredIo::settle(Inode&, bool) {}
void MeteredIo::adopt_unwritten(Inode&, int) {}

Claims MeteredIo::claims_of(Inode&, Bytes) const { return {}; }

}  // namespace limaquota
