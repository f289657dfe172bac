// The data path: how a file's data are changed (written, allocated, truncated, copied, synced). One narrow
// interface, chosen for each inode when it is opened.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "accounting/result.hpp"

namespace limaquota {

struct Inode;

// Thread safety: all functions may be called from any thread. `fd` is a real descriptor of the inode, opened
// for writing where that is needed.
class DataPath {
 public:
  DataPath() = default;
  DataPath(const DataPath&) = delete;
  DataPath& operator=(const DataPath&) = delete;
  virtual ~DataPath() = default;

  // May write less than `size`, as on a full disk; ENOSPC where nothing fits.
  virtual Result<size_t> write(Inode& inode, int fd, const char* data, size_t size, uint64_t offset) = 0;
  // `mode` as of fallocate(2).
  virtual Result<void> fallocate(Inode& inode, int fd, int mode, uint64_t offset, uint64_t length) = 0;
  virtual Result<void> truncate(Inode& inode, int fd, uint64_t size) = 0;
  // May copy less than `size`, as copy_file_range(2).
  virtual Result<size_t> copy(Inode& in, int in_fd, uint64_t in_offset, Inode& out, int out_fd,
                              uint64_t out_offset, size_t size) = 0;
  // What is written is on the disk when it returns: the data, or the attributes as well.
  enum class Synced : uint8_t { data, all };
  virtual Result<void> sync(Inode& inode, int fd, Synced what) = 0;
};

}  // namespace limaquota
