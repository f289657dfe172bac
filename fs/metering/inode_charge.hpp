// What an inode is charged for, and its slack, brought to what the filesystem says: after each change by
// fstat(2), in one step of the ledger with the end of the reservation that covered it (P2).
#pragma once

#include <sys/stat.h>

#include <boost/container/small_vector.hpp>
#include <initializer_list>
#include <optional>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/late_metadata.hpp"
#include "fs/metering/need.hpp"
#include "fs/metering/settle_list.hpp"

namespace limaquota {

using Changes = boost::container::small_vector<Change, 4>;

// So many bytes in each account that the inode is charged to.
Claims claims(const Inode& inode, Bytes bytes) REQUIRES(inode.mutex);
// The same for a caller that does not hold it.
Claims claims_of(Inode& inode, Bytes bytes) EXCLUDES(inode.mutex);
// The line up to which the inode may be written.
inline Line line_of(const Inode& inode) REQUIRES(inode.mutex) {
  return inode.charge.is_disk ? Line::disk : Line::control;
}

// Thread safety: all functions may be called from any thread.
class InodeCharges {
 public:
  InodeCharges(const Backing& backing, Ledger& ledger, const LateMetadata& late, SettleList& list)
      : backing_(backing), ledger_(ledger), late_(late), list_(list) {}

  // After a change of data that needed so much: commits what it did, and gives the rest of the reservation
  // back.
  void finish(Inode& inode, int fd, Reservation reservation, const Need& need) REQUIRES(inode.mutex);
  // After an operation on names or attributes: looks at the inodes (null ones are left out), whose mutexes
  // the caller holds, and commits what it did to them, with what it did to others, in one step: `changes` are
  // those of the others, and get theirs.
  void commit(Reservation reservation, std::initializer_list<Inode*> inodes, Changes& changes);
  void commit(Reservation reservation, std::initializer_list<Inode*> inodes);
  // Looks at st_blocks and tells the ledger; keeps the slack that is due.
  void observe(Inode& inode, const struct stat& st) REQUIRES(inode.mutex);
  void observe(Inode& inode) REQUIRES(inode.mutex);

 private:
  void change(Inode& inode, Bytes charge_after, Bytes slack_after, Changes& changes) REQUIRES(inode.mutex);
  void change_to_present(Inode& inode, Changes& changes) REQUIRES(inode.mutex);
  // fstat(2). Where that fails, the inode is listed, to be looked at again until it can be.
  std::optional<struct stat> look(Inode& inode) REQUIRES(inode.mutex);
  void could_not_look(Inode& inode, Bytes may_have_grown) REQUIRES(inode.mutex);
  void list(Inode& inode) REQUIRES(inode.mutex);
  void tell(Reservation& reservation, const Changes& changes);

  const Backing& backing_;
  Ledger& ledger_;
  const LateMetadata& late_;
  SettleList& list_;
};

}  // namespace limaquota
