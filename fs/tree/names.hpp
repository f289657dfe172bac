// Names: files, directories and links are made and removed, each with its charge. (Renames: renames.hpp.)
#pragma once

#include <functional>

#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/replay.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/data_path.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/system/caller.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/entries.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/recounts.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread; the caller holds no inode's mutex. `replay` is
// that of the request in service.
class Names {
 public:
  Names(const Backing& backing, Ledger& ledger, InodeTable& table, Admission& admission,
        InodeCharges& inode_charges, Accounts& accounts, Charges& charges, Entries& entries, InodeEnd& ends,
        Recounts& recounts)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        admission_(admission),
        inode_charges_(inode_charges),
        accounts_(accounts),
        charges_(charges),
        entries_(entries),
        ends_(ends),
        recounts_(recounts) {}

  struct Created {
    Entry entry;
    Fd fd;
  };
  // What O_TRUNC cuts off goes by `data`.
  Result<Created> create(Replay& replay, DataPath& data, Inode& parent, const char* name, mode_t mode,
                         int flags, const Caller& caller);
  Result<Entry> mknod(Replay& replay, Inode& parent, const char* name, mode_t mode, dev_t device,
                      const Caller& caller);
  Result<Entry> mkdir(Replay& replay, Inode& parent, const char* name, mode_t mode, const Caller& caller);
  Result<Entry> symlink(Replay& replay, Inode& parent, const char* name, const char* target,
                        const Caller& caller);
  Result<Created> tmpfile(Inode& parent, mode_t mode, int flags, const Caller& caller);
  Result<Entry> link(Replay& replay, Inode& inode, Inode& parent, const char* name);
  enum class Removed : uint8_t { file, directory };
  Result<void> remove(Replay& replay, Inode& parent, const char* name, Removed what);

 private:
  // A name that is to be made: by which system call, and how long a value it has besides (a link's target).
  struct Making {
    Inode& parent;
    const char* name;
    mode_t type;  // S_IFMT
    std::function<Result<void>()> call;
    size_t value_size = 0;
  };
  struct Made {
    Entry entry;
    bool before = false;  // by a worker that died
  };
  Result<Made> make(Replay& replay, const Making& making);
  Result<Entry> enter_made(const Making& making, Reservation reservation) REQUIRES(making.parent.mutex);
  Result<Entry> make_entry(Replay& replay, const Making& making);
  Result<Fd> open_made_before(Replay& replay, Entry& entry, int flags);
  bool stands(const Inode& parent, const char* name) const;

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  Admission& admission_;
  InodeCharges& inode_charges_;
  Accounts& accounts_;
  Charges& charges_;
  Entries& entries_;
  InodeEnd& ends_;
  Recounts& recounts_;
};

}  // namespace limaquota
