// The wing as one thing: all its parts, put together in the order in which they depend on each other.
#pragma once

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/admission.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/late_metadata.hpp"
#include "fs/metering/metered_io.hpp"
#include "fs/metering/metered_ranges.hpp"
#include "fs/metering/need.hpp"
#include "fs/metering/settle_list.hpp"
#include "fs/metering/settler.hpp"
#include "fs/metering/settling.hpp"

namespace limaquota {

// Thread safety: the parts say it themselves.
struct Metering {
  // `refusal` is the errno of what is beyond a budget.
  Metering(const Backing& backing, Ledger& ledger, InodeTable& table, int refusal)
      : late(backing.rules()),
        needs(backing, late),
        list(table),
        charges(backing, ledger, late, list),
        settling(backing, ledger, late, needs, charges, list),
        admission(backing, ledger, table, late, needs, settling, refusal),
        ranges(backing, late, needs, charges, admission),
        io(backing, late, needs, charges, admission, ranges),
        settler(backing, ledger, list, charges, settling) {}
  Metering(const Metering&) = delete;
  Metering& operator=(const Metering&) = delete;

  LateMetadata late;
  Needs needs;
  SettleList list;
  InodeCharges charges;
  Settling settling;
  Admission admission;
  MeteredRanges ranges;
  MeteredIo io;
  Settler settler;
};

}  // namespace limaquota
