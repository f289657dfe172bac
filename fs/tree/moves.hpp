// Moves: what was renamed into another account takes its charge along, and so does everything below a
// directory.
#pragma once

#include <optional>
#include <vector>

#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/standing.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. The caller holds no inode's mutex.
class Moves {
 public:
  Moves(const Backing& backing, InodeTable& table, Accounts& accounts, Charges& charges)
      : backing_(backing), table_(table), accounts_(accounts), charges_(charges) {}

  // The account that what was renamed has left.
  struct Left {
    Role role = Role::plain;
    AccountId account = 0;
  };
  // What stands at `to_name` was renamed, from one directory to the other. Nothing where it stays in its
  // account.
  std::optional<Left> renamed(const Standing& moved, const Inode& from_parent, const Inode& to_parent,
                              const char* to_name);
  // Some of what is below a directory could not be looked at: what is still charged to the old account is
  // moved now.
  void go_on();

 private:
  // What is below a directory and still charged to an old account.
  struct Unfinished {
    Fd directory;
    AccountId from = 0;
  };
  enum class Looked : uint8_t { at_all, at_some };
  // `role_before` is what its charge said.
  void move(const Standing& moved, Role role_before, AccountId from, const Child& child, const char* name);
  Looked move_below(int dir, AccountId from, Role role, AccountId account);
  void move_entry(const Standing& standing, AccountId from, Role role, AccountId account, const char* name);

  const Backing& backing_;
  InodeTable& table_;
  Accounts& accounts_;
  Charges& charges_;
  Mutex mutex_;
  std::vector<Unfinished> unfinished_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
