// Metered I/O: reserve, system call, commit. Every allocation in the tree happens in here, and the
// reservation is made before the system call, so a limit is never exceeded, not for a moment.
//
// Three ways through a write. What the allocation map knows to be in place is only written. Far from every
// limit the whole range is reserved whatever the map says. Where that does not fit, the map says what the
// write needs exactly; where that does not fit either, slack is settled, operations under way are waited for,
// and then as much is written as fits.
#pragma once

#include <initializer_list>
#include <mutex>
#include <optional>

#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"

namespace limaquota {

class Settler;

// Thread safety: all functions may be called from any thread.
class MeteredIo {
 public:
  // `refusal` is the errno of what is beyond a budget.
  MeteredIo(const Backing& backing, Ledger& ledger, InodeTable& table, Settler& settler, int refusal)
      : backing_(backing), ledger_(ledger), table_(table), settler_(settler), refusal_(refusal) {}

  // --- data: fd is a real descriptor of the inode, opened for writing where that is needed ---
  // May write less than `size`, as on a full disk; ENOSPC where nothing fits.
  Result<size_t> write(Inode& inode, int fd, const char* data, size_t size, uint64_t offset);
  Result<void> fallocate(Inode& inode, int fd, int mode, uint64_t offset, uint64_t length);
  Result<void> truncate(Inode& inode, int fd, uint64_t size);
  Result<size_t> copy(Inode& in, int in_fd, uint64_t in_offset, Inode& out, int out_fd, uint64_t out_offset,
                      size_t size);
  Result<void> sync(Inode& inode, int fd, bool data_only);

  // --- names and attributes ---
  // Sets bytes aside for an operation on names or attributes. The caller holds no inode's mutex. A refusal is
  // counted unless the operation may go on without.
  Result<Reservation> reserve(const Claims& claims, Line line, bool counted = true);
  // Looks at the inodes, whose mutexes the caller holds, and commits what the operation did to them, with
  // what it did to `others`, in one step.
  using Changes = boost::container::small_vector<Change, 4>;
  void commit(Reservation reservation, std::initializer_list<Inode*> inodes, Changes& others);
  void commit(Reservation reservation, std::initializer_list<Inode*> inodes);

  // --- figures; the caller holds inode.mutex ---
  // Looks at st_blocks and tells the ledger; keeps the slack that is due.
  void observe(Inode& inode, const struct stat& st);
  void observe(Inode& inode);
  // Writes back what is dirty and gives its slack back. `trim` also drops what XFS preallocated past the end.
  void settle(Inode& inode, bool trim);
  // Counts the unwritten blocks of a file that was there before: observe then reserves their worst split.
  void adopt_unwritten(Inode& inode, int fd);
  // So many bytes in each account that the inode is charged to, for a caller that does not hold its mutex.
  Claims claims_of(Inode& inode, Bytes bytes) const;
  Line line(const Inode& inode) const { return inode.charge.is_disk ? Line::disk : Line::control; }

 private:
  struct Need {
    Bytes bytes;             // to reserve
    uint64_t extents = 0;    // that may come of it
    uint64_t unwritten = 0;  // unwritten blocks that become written
    bool exact = false;      // from the map
  };
  // What an operation was granted: how much of it, under which reservation.
  struct Grant {
    Reservation reservation;
    uint64_t length = 0;
    Need need;
  };

  // Whether every block of the range is written and the file's own: then nothing changes but the data.
  bool in_place(Inode& inode, int fd, ByteRange range);
  // For the allocation map of the inode.
  AllocationMap::Fill fill_of(Inode& inode, int fd);
  Need far_need(Inode& inode, ByteRange range) const;
  Result<Need> exact_need(Inode& inode, int fd, ByteRange range);
  // Whether the block that the file ends in would be copied by a write to it.
  bool last_block_is_shared(Inode& inode, int fd);
  // What the filesystem may allocate late for so many extents in a file of so many, and with so much
  // allocated.
  Bytes late(const Inode& inode, uint64_t extents, uint64_t present, Bytes allocated) const;
  Bytes late_alone(const Inode& inode, uint64_t extents) const;
  Bytes slack_growth(const Inode& inode, uint64_t extents) const;
  void expect_extents(Inode& inode, uint64_t extents) const;
  // Whether there may be fewer extents than are reckoned with, and it matters.
  bool extents_guessed(const Inode& inode) const;
  uint64_t unit_of(Inode& inode, int fd);
  Claims claims(const Inode& inode, Bytes bytes) const;
  // `lock` holds inode.mutex; it may be let go and taken again.
  Result<Grant> admit(Inode& inode, int fd, ByteRange range, bool may_shorten,
                      std::unique_lock<std::mutex>& lock);
  Result<uint64_t> fitting(Inode& inode, int fd, ByteRange range, Bytes room);
  // What was tried already to make room for one operation.
  struct Tried {
    unsigned waits = 0;
    bool own = false, others = false, map = false, host = false;
  };
  // Gives others the chance to give back; false where nothing more can come.
  bool make_room(Inode& inode, const Refused& refusal, Tried& tried, std::unique_lock<std::mutex>& lock);
  Errno refused(const Claims& claims, Bytes bytes, const Refused& refusal);
  bool wait_for_others(const Refused& refusal, Tried& tried);
  // XFS preallocates past the end of a file, but not inside: near the limit the file is made longer first.
  // False where that is not needed.
  Result<bool> extend_first(Inode& inode, int fd, uint64_t end, bool exact);
  void shorten_again(Inode& inode, int fd, uint64_t end);
  Result<size_t> write_granted(Inode& inode, int fd, const char* data, ByteRange range, bool exact);
  void finish(Inode& inode, int fd, Reservation reservation, const Need& need);
  Result<void> allocate(Inode& inode, int fd, int mode, ByteRange range);
  Result<void> punch(Inode& inode, int fd, int mode, ByteRange range);
  // Nothing where the range is too large, or cannot be looked at: then adopt_unwritten counts anew.
  std::optional<uint64_t> unwritten_in(Inode& inode, int fd, BlockRange blocks);
  using Edges = boost::container::small_vector<uint64_t, 2>;  // a byte in each block that is zeroed in part
  Result<Reservation> admit_edges(Inode& inode, int fd, const Edges& edges, ByteRange freed,
                                  std::unique_lock<std::mutex>& lock);
  Bytes allocated_in(int fd, ByteRange range) const;
  Bytes slack_due(const Inode& inode, Bytes allocated) const;
  void changes_of(Inode& inode, Bytes charge_after, Bytes slack_after, Changes& changes);
  void list(Inode& inode);
  void drop_preallocation(Inode& inode, int fd);

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  Settler& settler_;
  const int refusal_;
};

// Seconds of a steady clock, for the map's memory of growth.
uint32_t steady_seconds();

}  // namespace limaquota
