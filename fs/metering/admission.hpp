// Admission: bytes are reserved before they are written. Where they do not fit, room is made: slack is
// settled, operations under way are waited for, the host's free space is looked at again; then as much is let
// in as fits, and where nothing does, nothing was changed (docs/promises.md: P1, P4).
#pragma once

#include <cstdint>

#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/need.hpp"
#include "fs/metering/settling.hpp"

namespace limaquota {

// What a change of data was granted: how much of it, under which reservation.
struct Grant {
  Reservation reservation;
  uint64_t length = 0;  // bytes from its beginning
  Need need;
};

// Thread safety: all functions may be called from any thread.
class Admission {
 public:
  // `refusal` is the errno of what is beyond a budget.
  Admission(const Backing& backing, Ledger& ledger, const InodeTable& table, const LateMetadata& late,
            const Needs& needs, Settling& settling, int refusal)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        late_(late),
        needs_(needs),
        settling_(settling),
        refusal_(refusal) {}

  // --- data; the inode's mutex may be let go and taken again meanwhile ---
  // Of a write: all of it, or as much as fits.
  Result<Grant> admit(Inode& inode, int fd, ByteRange range) REQUIRES(inode.mutex);
  // What was tried already to make room for one operation.
  struct Tried {
    unsigned waits = 0;
    bool own = false, others = false, map = false, host = false;
  };
  // One attempt to reserve, for an operation that reckons itself what it needs.
  Reserved reserve(const Inode& inode, Bytes bytes, Line line) REQUIRES(inode.mutex);
  // After a refusal: gives others the chance to give back. False where nothing more can come.
  bool make_room(Inode& inode, const Refused& refusal, Tried& tried) REQUIRES(inode.mutex);
  // It stays a refusal: counted, and the errno of it.
  Errno refused(const Claims& claims, Bytes bytes, const Refused& refusal);

  // --- names and attributes; the caller holds no inode's mutex ---
  Result<Reservation> reserve(const Claims& claims, Line line);
  // The same for an operation that may go on without: a refusal is not counted.
  Result<Reservation> reserve_if_possible(const Claims& claims, Line line);

 private:
  Reserved reserve_patiently(const Claims& claims, Line line);
  bool wait_for_others(const Refused& refusal, Tried& tried);
  bool settle_others(const AccountIds& accounts, const Refused& refusal);
  Errno errno_of(const Refused& refusal) const { return {refusal.by == RefusedBy::host ? ENOSPC : refusal_}; }

  const Backing& backing_;
  Ledger& ledger_;
  const InodeTable& table_;
  const LateMetadata& late_;
  const Needs& needs_;
  Settling& settling_;
  const int refusal_;
};

}  // namespace limaquota
