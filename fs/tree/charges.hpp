// Charges: to which accounts an inode counts, and how it goes from one to another. Nothing else writes a
// charge.
//
// An inode with several names counts in each account that has one of them (its holders), once. Two threads
// may each move one of its names to another account: so the charge and the ledger change in one step.
#pragma once

#include <sys/stat.h>

#include <string>

#include "accounting/ledger.hpp"
#include "fs/metering/holders.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/accounts.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class Charges {
 public:
  Charges(Ledger& ledger, InodeTable& table, const Accounts& accounts)
      : ledger_(ledger), table_(table), accounts_(accounts) {}

  // An inode as it was found, by an O_PATH descriptor, or by none where it is no disk.
  struct Found {
    NodeId id = 0;
    int path = -1;
    const struct stat& st;
    std::string handle;  // its file handle
  };
  // Charges an inode that has no charge, and says so in `changes`.
  void add(const Found& found, const Child& child, const char* name, Changes& changes);
  // Gives back the charge of an inode that was removed behind the mount's back, where another one has its
  // number.
  void drop_stale(const Found& found, Changes& changes);
  // The charge of an inode that is no more, with its slack.
  static void give_back(const Charge& charge, Bytes slack, Changes& changes);

  // What a charge says of its inode; nothing where it has none.
  struct Where {
    AccountId account = 0;
    Role role = Role::plain;
    bool has_holders = false;
  };
  std::optional<Where> find(NodeId id);

  // --- names; of inodes with several ---
  // The inode got one more name in an account that it counts in already.
  static void add_name(Inode& inode, AccountId account) REQUIRES(inode.mutex);
  // Whether its name was the last that the tree has of it.
  enum class NameWas : uint8_t { last, one_of_several };
  // A name in `account` is gone, of an inode that has so much slack.
  static NameWas drop_name(Charge& charge, Bytes slack, AccountId account, Changes& changes);
  // Found by the scan: where its names are.
  void set_holders(NodeId id, Holders holders);
  // A name went from account `from` to what `child` says, under which its inode now counts as `child`.
  void move_name(const Found& found, AccountId from, const Child& child, const char* name);
  // The inode is a disk from now on.
  void become_disk(Inode& inode, AccountId account, const char* name, const struct stat& st)
      REQUIRES(inode.mutex);

 private:
  void move_holder(Charge& charge, AccountId from, AccountId to, Bytes slack);
  DiskRecord disk_record(const Found& found, AccountId account, const char* name) const;

  Ledger& ledger_;
  InodeTable& table_;
  const Accounts& accounts_;
};

}  // namespace limaquota
