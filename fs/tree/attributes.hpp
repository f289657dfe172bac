// Extended attributes: what is set allocates, and is metered as a name is.
#pragma once

#include <cstddef>

#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/replay.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. The caller does not hold inode.mutex.
class Attributes {
 public:
  Attributes(const Backing& backing, Admission& admission, InodeCharges& inode_charges)
      : backing_(backing), admission_(admission), inode_charges_(inode_charges) {}

  // `flags` as of setxattr(2).
  Result<void> set(Replay& replay, Inode& inode, const char* name, const void* value, size_t size, int flags);
  Result<void> remove(Replay& replay, Inode& inode, const char* name);

 private:
  bool has(const Inode& inode, const char* name) const;
  bool is(const Inode& inode, const char* name, const void* value, size_t size) const;

  const Backing& backing_;
  Admission& admission_;
  InodeCharges& inode_charges_;
};

}  // namespace limaquota
