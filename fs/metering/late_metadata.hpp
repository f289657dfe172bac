// Late metadata: what a filesystem may still allocate for changes to a file that were answered already, and
// how much is kept reserved for it (its slack). How much that is at most: accounting/slack.hpp.
//
// What comes of a change is known in extents: those that may still come of what is not on the disk
// (`unsettled`), and those that writing to unwritten blocks may split (`unwritten`). When a change is
// admitted, the growth of the slack is reserved with it. A later count that finds more extents than expected
// does not raise the slack again (`late_cap`): their metadata is allocated by then.
#pragma once

#include <cstdint>

#include "accounting/bytes.hpp"
#include "fs/backing/allocation_rules.hpp"
#include "fs/metering/inode.hpp"

namespace limaquota {

class LateMetadata {
 public:
  explicit LateMetadata(const AllocationRules& rules) : rules_(rules) {}

  // The slack that the inode is to have now, with so much allocated.
  Bytes slack_due(const Inode& inode, Bytes allocated) const REQUIRES(inode.mutex);
  // By how much it may grow when so many extents more may come: to be reserved before.
  Bytes slack_growth(const Inode& inode, uint64_t extents) const REQUIRES(inode.mutex);
  // They were reserved for.
  void expect(Inode& inode, uint64_t extents) const REQUIRES(inode.mutex);
  // Whether there may be fewer extents than are reckoned with, and it matters.
  bool is_guessed(const Inode& inode) const REQUIRES(inode.mutex);

 private:
  Bytes late(const Inode& inode, uint64_t extents, uint64_t present, Bytes allocated) const
      REQUIRES(inode.mutex);
  Bytes late_alone(const Inode& inode, uint64_t extents) const REQUIRES(inode.mutex);

  const AllocationRules& rules_;
};

}  // namespace limaquota
