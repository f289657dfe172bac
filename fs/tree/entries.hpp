// Entries: inodes that the kernel gets to know, by a name or by their id, each with its charge.
#pragma once

#include <sys/stat.h>

#include <string>

#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/settler.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/kernel_cache.hpp"

namespace limaquota {

// An inode that the kernel gets to know (one lookup is counted), with its attributes.
struct Entry {
  InodePtr inode;
  struct stat st {};
};

// Thread safety: all functions may be called from any thread.
class Entries {
 public:
  Entries(const Backing& backing, Ledger& ledger, InodeTable& table, Settler& settler, Accounts& accounts,
          Charges& charges, InodeEnd& ends, KernelCache& kernel)
      : backing_(backing),
        ledger_(ledger),
        table_(table),
        settler_(settler),
        accounts_(accounts),
        charges_(charges),
        ends_(ends),
        kernel_(kernel) {}

  // For a request of the kernel's: waits where it knows so many that descriptors run out.
  Result<Entry> lookup(Inode& parent, const char* name);
  void make_room_for_one();
  // The same without.
  Result<Entry> find(Inode& parent, const char* name);
  // What stands at a name, by its O_PATH descriptor. The caller holds parent.mutex where it may just have
  // been made.
  Result<Entry> enter(Inode& parent, const char* name, Fd path, Changes& changes);
  // An inode that the kernel asks for by its id alone (name_to_handle_at, open_by_handle_at): one that is
  // known, or found by its file handle, as root.
  Result<Entry> reopen(NodeId id);
  Result<struct stat> attributes(Inode& inode);
  // What a new Inode, which nobody else has yet, is told of the inode that it stands for.
  void describe(Inode& inode, const struct stat& st, const std::string& handle) const UNCHECKED_LOCKS;

 private:
  Entry enter_known(NodeId id, Fd path, NodeId parent, const char* name, const struct stat& st,
                    const std::string& handle);

  const Backing& backing_;
  Ledger& ledger_;
  InodeTable& table_;
  Settler& settler_;
  Accounts& accounts_;
  Charges& charges_;
  InodeEnd& ends_;
  KernelCache& kernel_;
};

}  // namespace limaquota
