// One inode of the backing tree, as the filesystem knows it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "accounting/allocation_map.hpp"
#include "accounting/bytes.hpp"
#include "accounting/layout.hpp"
#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"
#include "fs/metering/data_path.hpp"
#include "fs/metering/holders.hpp"
#include "fs/system/fd.hpp"
#include "fs/system/node_id.hpp"
#include "fs/system/sys.hpp"

namespace limaquota {

// A value that is read without its lock where a moment's staleness does no harm.
template <class T>
class Relaxed {
 public:
  Relaxed(T value = T()) : value_(value) {}  // NOLINT(google-explicit-constructor)
  Relaxed(const Relaxed& other) : value_(static_cast<T>(other)) {}
  Relaxed& operator=(const Relaxed& other) {
    value_.store(other, std::memory_order_relaxed);
    return *this;
  }
  operator T() const {
    return value_.load(std::memory_order_relaxed);
  }  // NOLINT(google-explicit-constructor)

 private:
  std::atomic<T> value_;
};

// The charge of one backing inode: what `used` of its account holds for it. Kept for every inode of the tree,
// also for those the kernel has forgotten, so that a figure never drifts. Guarded by the inode's mutex where
// an Inode exists, else by the table's.
struct Charge {
  Bytes bytes;
  Relaxed<AccountId> account;
  Relaxed<Role> role;
  Relaxed<bool> is_disk;  // a disk file, with a record in the ledger
  Relaxed<bool> is_yaml;  // a VM's lima.yaml
  std::string handle;     // the file handle: its inode can be found again by it, as root
  // For an inode that had several names: where they are (links from outside the tree do not count). It counts
  // in each account that holds one. Without it there is one name.
  std::unique_ptr<Holders> holders;

  // The accounts it counts in.
  AccountIds accounts() const { return holders ? holders->accounts() : AccountIds{account}; }
};

// Locking: `mutex` is held over system calls on this inode. Several inodes are locked in ascending order of
// id. The table's and the ledger's mutexes are taken inside it and never held over a system call; so is
// `open_mutex`, last and alone.
struct Inode {
  Inode(NodeId node, Fd o_path, Charge& its_charge) : id(node), path(std::move(o_path)), charge(its_charge) {}

  const NodeId id;
  Fd path;  // O_PATH; stays the same until the kernel has forgotten the inode
  uint32_t generation = 0;
  dev_t device = 0;
  mode_t type = 0;                       // S_IFMT part
  std::atomic<unsigned> opens{0};        // descriptors of open files
  std::atomic<DataPath*> data{nullptr};  // where its data go; null: not opened yet
  std::atomic<bool> dead{false};  // its charge was given back and means nothing any more; set under mutex
  std::atomic<bool> being_settled{false};    // who needs the room may wait for it; set under mutex
  std::atomic<bool> listed{false};           // on the settle list, which keeps it in the table
  std::atomic<bool> may_have_set_id{false};  // set-uid or set-gid bits may have to be kept or cleared by us

  // What the charge says, for who does not hold the mutex: a moment's staleness does no harm.
  AccountId account() const UNCHECKED_LOCKS { return charge.account; }
  Role role() const UNCHECKED_LOCKS { return charge.role; }
  bool is_disk() const UNCHECKED_LOCKS { return charge.is_disk; }
  bool is_yaml() const UNCHECKED_LOCKS { return charge.is_yaml; }

  Mutex open_mutex;
  // How it is opened while opens > 0: by direct I/O or through the page cache.
  bool direct GUARDED_BY(open_mutex) = false;
  // Written by direct I/O since it was last opened through the page cache.
  bool cache_is_stale GUARDED_BY(open_mutex) = false;

  Mutex mutex;
  Charge& charge GUARDED_BY(mutex);
  Bytes slack GUARDED_BY(mutex);             // what the ledger holds for this inode's late metadata
  uint64_t unsettled GUARDED_BY(mutex) = 0;  // extents that may come of writes not yet known to be on disk
  uint64_t settled GUARDED_BY(mutex) = 0;    // how often `unsettled` was taken down
  uint64_t unwritten GUARDED_BY(mutex) = 0;  // unwritten blocks: each may split an extent when it is written
  uint64_t extents_at_most GUARDED_BY(mutex) = 0;  // upper bound of the extents present
  bool extents_counted GUARDED_BY(mutex) = false;  // no more than there are
  // At most so much of the slack is for late metadata, whatever a new count of the extents says: it was
  // enough for all that was to come, and what came of it is allocated.
  Bytes late_cap GUARDED_BY(mutex) = Bytes::unlimited();
  bool is_unknown GUARDED_BY(mutex) = false;  // fstat failed after an operation: to be looked at again
  Bytes unknown_growth GUARDED_BY(mutex);     // what such operations had reserved
  uint64_t size GUARDED_BY(mutex) = 0;
  AllocationMap map GUARDED_BY(mutex);
  bool hints_known GUARDED_BY(mutex) = false;
  ExtentHints hints GUARDED_BY(mutex);
  bool maybe_shared GUARDED_BY(mutex) = false;  // has, or may have, shared extents
  unsigned sharing GUARDED_BY(mutex) = 0;       // copies under way that may share any block of it
  bool preallocated_past_end GUARDED_BY(mutex) = false;
  bool gone GUARDED_BY(mutex) = false;            // no name is left
  bool linked_outside GUARDED_BY(mutex) = false;  // gone from the tree, but not from the filesystem
  bool dying GUARDED_BY(mutex) = false;           // counted in the table's `dying`
  std::chrono::steady_clock::time_point dirty_since GUARDED_BY(mutex);
  std::chrono::steady_clock::time_point last_write GUARDED_BY(mutex);
  // Of a dead one, for who asks it still.
  std::unordered_map<NodeId, Charge>::node_type last_charge GUARDED_BY(mutex);
};

// Seconds of a steady clock, for the map's memory of growth.
inline uint32_t steady_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
}

// The generation that the kernel sees: 32 bits that stand for the file handle (FNV-1a).
uint32_t generation_of(const std::string& handle);

using InodePtr = std::shared_ptr<Inode>;

}  // namespace limaquota
