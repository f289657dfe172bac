// Settling: an inode is written back, its late metadata is allocated with that, and the slack that was kept
// for it is given back.
#pragma once

#include <cstdint>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/late_metadata.hpp"
#include "fs/metering/need.hpp"
#include "fs/metering/settle_list.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class Settling {
 public:
  Settling(const Backing& backing, const Ledger& ledger, const LateMetadata& late, const Needs& needs,
           InodeCharges& charges, SettleList& list)
      : backing_(backing), ledger_(ledger), late_(late), needs_(needs), charges_(charges), list_(list) {}

  // What the filesystem preallocated past the end of the file goes, too, or may stay.
  enum class Preallocation : uint8_t { stays, goes };
  // Waits for the disk.
  void settle(Inode& inode, Preallocation preallocation) REQUIRES(inode.mutex);
  // Every listed inode that one of these accounts pays for, or that there is, but those whose mutex is held:
  // something changes them anyway. The caller holds no inode's mutex. True where anything was given back.
  bool settle_accounts(const AccountIds& accounts);
  bool settle_all();

 private:
  template <class IsMeant>
  bool settle_listed(IsMeant is_meant);
  void drop_preallocation(Inode& inode, int fd) REQUIRES(inode.mutex);

  const Backing& backing_;
  const Ledger& ledger_;
  const LateMetadata& late_;
  const Needs& needs_;
  InodeCharges& charges_;
  SettleList& list_;
};

}  // namespace limaquota
