// Renames: two names change in one step of the filesystem, and with them charges and limits.
#pragma once

#include <map>
#include <optional>

#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/replay.hpp"
#include "fs/limits/limit_follows.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/limit_along.hpp"
#include "fs/tree/moves.hpp"
#include "fs/tree/standing.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class Renames {
 public:
  Renames(const Backing& backing, InodeTable& table, Admission& admission, InodeCharges& inode_charges,
          LimitFollows& limit_follows, Accounts& accounts, Charges& charges, InodeEnd& ends, Moves& moves,
          const LimitAlong& limit_along)
      : backing_(backing),
        table_(table),
        admission_(admission),
        inode_charges_(inode_charges),
        limit_follows_(limit_follows),
        accounts_(accounts),
        charges_(charges),
        ends_(ends),
        moves_(moves),
        limit_along_(limit_along) {}

  // `flags` as of renameat2(2). The caller holds no inode's mutex.
  Result<void> rename(Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                      const char* new_name, unsigned flags);

 private:
  // One call: the names, and what stood there.
  struct Call {
    Inode& parent;
    const char* name;
    Inode& new_parent;
    const char* new_name;
    unsigned flags;
    Standing source, target;
    std::optional<LimitMove> limit;

    bool exchanges() const;
    bool stays_in_directory() const { return &parent == &new_parent; }
    bool replaces() const { return target.id != 0 && !exchanges(); }
  };
  bool was_done(const std::optional<RenamesInode>& before, const Call& call);
  Result<Reservation> reserve(const Call& call);
  Result<Reservation> reserve_inside(const Call& call);
  Result<void> carry_out(Replay& replay, const std::optional<RenamesInode>& before, Call& call,
                         Reservation reservation);
  void add_whiteout(const Call& call, Changes& changes);
  void follow(const Call& call);
  bool lend(AccountId account);

  const Backing& backing_;
  InodeTable& table_;
  Admission& admission_;
  InodeCharges& inode_charges_;
  LimitFollows& limit_follows_;
  Accounts& accounts_;
  Charges& charges_;
  InodeEnd& ends_;
  Moves& moves_;
  const LimitAlong& limit_along_;
  Mutex lent_mutex_;
  std::map<AccountId, Bytes> lent_ GUARDED_BY(lent_mutex_);  // to renames in full accounts
};

}  // namespace limaquota
