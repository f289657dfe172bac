// The wing as one thing: all its parts, put together in the order in which they depend on each other.
#pragma once

#include <string>
#include <vector>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"
#include "fs/limits/limit_follows.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/metering.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/attributes.hpp"
#include "fs/tree/charges.hpp"
#include "fs/tree/entries.hpp"
#include "fs/tree/inode_end.hpp"
#include "fs/tree/kernel_cache.hpp"
#include "fs/tree/limit_along.hpp"
#include "fs/tree/limit_files_charge.hpp"
#include "fs/tree/moves.hpp"
#include "fs/tree/names.hpp"
#include "fs/tree/recounts.hpp"
#include "fs/tree/renames.hpp"
#include "fs/tree/scan.hpp"
#include "fs/tree/takeover.hpp"

namespace limaquota {

// Thread safety: the parts say it themselves.
struct Tree {
  // `homes` as for Accounts.
  Tree(const Backing& backing, Notes& notes, Ledger& ledger, InodeTable& table, LimitStore& limits,
       LimitFollows& limit_follows, Metering& metering, std::vector<std::string> homes)
      : accounts(backing, ledger, limits, std::move(homes)),
        charges(ledger, table, accounts),
        kernel(table),
        ends(backing, ledger, table, metering.list, metering.charges, accounts),
        entries(backing, ledger, table, metering.settler, accounts, charges, ends, kernel),
        recounts(backing, table, entries, ends),
        moves(backing, table, accounts, charges),
        limit_along(ledger, limits),
        limit_files(backing, ledger, table, metering.charges, accounts),
        names(backing, ledger, table, metering.admission, metering.charges, accounts, charges, entries, ends,
              recounts),
        renames(backing, table, metering.admission, metering.charges, limit_follows, accounts, charges, ends,
                moves, limit_along),
        attributes(backing, metering.admission, metering.charges),
        scan(backing, ledger, table, metering.charges, metering.list, accounts, charges, entries, ends,
             limit_files),
        takeover(backing, notes, ledger, table, metering.charges, metering.list, accounts, charges, entries,
                 ends, kernel) {}
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  // What was left to be done later, now and then, by one thread.
  void go_on() {
    limit_files.go_on();
    moves.go_on();
    recounts.go_on();
    kernel.forget_some();
    takeover.go_on();
    accounts.refresh_again();
  }

  Accounts accounts;
  Charges charges;
  KernelCache kernel;
  InodeEnd ends;
  Entries entries;
  Recounts recounts;
  Moves moves;
  LimitAlong limit_along;
  LimitFilesCharge limit_files;
  Names names;
  Renames renames;
  Attributes attributes;
  Scan scan;
  Takeover takeover;
};

}  // namespace limaquota
