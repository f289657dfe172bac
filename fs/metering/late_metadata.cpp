#include "fs/metering/late_metadata.hpp"

#include <algorithm>

namespace limaquota {

// For so many extents in a file of so many, and with so much allocated.
Bytes LateMetadata::late(const Inode& inode, uint64_t extents, uint64_t present, Bytes allocated) const {
  if (inode.hints.has_extents && rules_.slack.in_inode(allocated)) return Bytes(0);
  const bool maps_singly = rules_.may_map_blocks_singly && inode.hints_known && !inode.hints.has_extents;
  return maps_singly ? rules_.slack.late_without_extents(extents) : rules_.slack.late(extents, present);
}

Bytes LateMetadata::slack_due(const Inode& inode, Bytes allocated) const {
  if (!S_ISREG(inode.type)) return Bytes(0);
  const Bytes due = late(inode, inode.unsettled + inode.unwritten, inode.extents_at_most, allocated);
  return std::min(due, inode.late_cap) + inode.unknown_growth;
}

// What comes of more extents alone, wherever those that are to come already will lie.
Bytes LateMetadata::late_alone(const Inode& inode, uint64_t extents) const {
  const uint64_t pending = inode.unsettled + inode.unwritten;
  const Bytes allocated = inode.charge.bytes + Bytes(extents * rules_.block);
  return late(inode, extents, inode.extents_at_most + pending, allocated);
}

Bytes LateMetadata::slack_growth(const Inode& inode, uint64_t extents) const {
  const uint64_t pending = inode.unsettled + inode.unwritten;
  const Bytes allocated = inode.charge.bytes + Bytes(extents * rules_.block);
  const Bytes all = late(inode, pending + extents, inode.extents_at_most, allocated) + inode.unknown_growth;
  return std::min(minus_or_zero(all, inode.slack), late_alone(inode, extents));
}

void LateMetadata::expect(Inode& inode, uint64_t extents) const {
  inode.late_cap = plus_or_unlimited(inode.late_cap, late_alone(inode, extents));
}

bool LateMetadata::is_guessed(const Inode& inode) const { return rules_.is_late() && !inode.extents_counted; }

}  // namespace limaquota
