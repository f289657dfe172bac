// What is known of the backing filesystem from the moment of the mount: how it allocates, and how much is
// free.
#pragma once

#include <atomic>

#include "accounting/allocation_map.hpp"
#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "accounting/slack.hpp"
#include "fs/fd.hpp"
#include "fs/sys.hpp"

namespace limaquota {

enum class BackingKind { ext4, xfs, btrfs, tmpfs, other };

// Immutable once made but for one counter, so any thread may use it.
class Backing {
 public:
  // `root` is the directory that is covered, opened before the mount. `mount_options` are the filesystem's
  // own, as in mountinfo.
  Backing(Sys& sys, Fd root, std::string_view mount_options);

  Sys& sys() const { return sys_; }
  int root() const { return root_.get(); }
  // openat(2) for a request: where descriptors are short it waits a little, as they come back when the kernel
  // forgets inodes (Tree::forget_some).
  Result<Fd> open(int dir, const char* name, int flags, mode_t mode = 0) const;
  dev_t device() const { return device_; }
  BackingKind kind() const { return kind_; }
  const SlackModel& slack() const { return slack_; }
  uint64_t block() const { return block_; }  // bytes: what the allocation map counts in
  uint64_t unit() const {
    return unit_;
  }  // bytes that one allocation takes at least (bigalloc cluster, huge page)
  // tmpfs with huge pages: it may give back the tail of one when memory is short, without a call of ours.
  bool gives_back_huge_pages() const { return kind_ == BackingKind::tmpfs && unit_ > block_; }
  // Whether writing over a block that is written, and not shared, allocates nothing here.
  bool overwrites_in_place() const {
    return kind_ == BackingKind::ext4 || kind_ == BackingKind::xfs || kind_ == BackingKind::tmpfs;
  }
  // Whether copy_file_range shares blocks here.
  bool can_share() const { return kind_ == BackingKind::xfs || kind_ == BackingKind::btrfs; }
  // Bytes that copy-on-write of one block may allocate in a file.
  uint64_t cow_unit(const ExtentHints& hints) const;
  // At most what XFS preallocates past a write that ends at `end` beyond EOF; 0 elsewhere.
  Bytes speculative(uint64_t end) const;
  // What one namespace operation, or an attribute that is set, may allocate in one account.
  Bytes metadata(size_t value_size = 0) const;

  // f_bavail in bytes (root's reserve is not ours); unlimited where the filesystem has no size.
  Bytes free_bytes() const;
  // A sample for the ledger's check of the host reserve. btrfs leaves what is not written back out of
  // f_bavail: there everything allocated since the last sync counts as gone besides.
  HostSample host_sample(const Ledger& ledger) const;
  // Writes back everything. Waits for the disk.
  bool sync() const;
  // Makes f_bavail true again where it lags; false where it never does. Waits for the disk.
  bool sync_host(const Ledger& ledger) const;

  // Reads extents of a file of `size` bytes into an allocation map: from FIEMAP, or from SEEK_DATA where
  // there is none. Shared extents are left out, as holes; `*shared` is set when one was seen. Left out, too,
  // is what lies beyond EOF, but for unwritten blocks where they stay (`stays_past_end`): XFS drops what it
  // preallocated when it likes.
  AllocationMap::Fill fill_from(int fd, uint64_t size, bool stays_past_end, bool* shared) const;
  // Whether a new name fits into the directory for sure without growing it (see the reasons inside).
  bool directory_has_room(int dir, size_t name_length) const;

 private:
  Sys& sys_;
  Fd root_;
  dev_t device_ = 0;
  BackingKind kind_ = BackingKind::other;
  SlackModel slack_;
  uint64_t block_ = 4096;
  uint64_t unit_ = 4096;
  uint64_t least_preallocation_ = 0;  // by XFS, behind a file that grows
  uint64_t largest_preallocation_ = 0;
  mutable std::atomic<uint64_t> allocated_at_sync_{0};  // the ledger's count when f_bavail was last true
};

}  // namespace limaquota
