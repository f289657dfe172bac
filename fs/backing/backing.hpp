// What is known of the backing filesystem from the moment of the mount: how it allocates, and how much is
// free.
#pragma once

#include <atomic>
#include <functional>

#include "accounting/allocation_map.hpp"
#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "fs/backing/allocation_rules.hpp"
#include "fs/system/fd.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {

// Whether unwritten blocks past the end of a file are its own: XFS drops what it preallocated when it likes.
enum class PastEnd : uint8_t { stays, may_go };

// Immutable once made but for one counter, so any thread may use it.
class Backing {
 public:
  // `root` is the directory that is covered, opened before the mount. `mount_options` are the filesystem's
  // own, as in mountinfo.
  Backing(Sys& sys, Fd root, std::string_view mount_options);

  Sys& sys() const { return sys_; }
  int root() const { return root_.get(); }
  // openat(2) for a request: where descriptors are short it waits a little, as they come back when the kernel
  // forgets inodes (KernelCache::forget_some).
  Result<Fd> open(int dir, const char* name, int flags, mode_t mode = 0) const;
  // How the filesystem allocates.
  const AllocationRules& rules() const { return rules_; }
  uint64_t block() const { return rules_.block; }
  // How many blocks are allocated to an inode.
  uint64_t blocks_of(const struct stat& st) const {
    return Bytes::of_st_blocks(st.st_blocks).count() / block();
  }
  // What one namespace operation, or an attribute that is set, may allocate in one account.
  Bytes metadata(size_t value_size = 0) const;

  // f_bavail in bytes (root's reserve is not ours); unlimited where the filesystem has no size.
  Bytes free_bytes() const;
  // A sample for the ledger's check of the host reserve. Where the free space
  // lags everything allocated since the last sync counts as gone besides.
  HostSample host_sample(const Ledger& ledger) const;
  // Writes back everything. Waits for the disk.
  bool sync() const;
  // Makes f_bavail true again where it lags; false where it never does. Waits for the disk.
  bool sync_host(const Ledger& ledger) const;

  // Reads extents of a file of `size` bytes into an allocation map: from FIEMAP, or from SEEK_DATA where
  // there is none. Shared extents are left out, as holes; `on_shared` is called for each. Left out, too,
  // is what lies beyond EOF, but for unwritten blocks where they stay.
  AllocationMap::Fill fill_from(int fd, uint64_t size, PastEnd past_end,
                                std::function<void()> on_shared) const;
  // Whether a new name fits into the directory for sure without growing it (see the reasons inside).
  bool directory_has_room(int dir, size_t name_length) const;

 private:
  Sys& sys_;
  Fd root_;
  const AllocationRules rules_;
  mutable std::atomic<uint64_t> allocated_at_sync_{0};  // the ledger's count when f_bavail was last true
};

}  // namespace limaquota
