// The table of `limaquota status`. Pure functions; thread safe.
#pragma once

#include <cstdint>
#include <string>

#include "accounting/figures.hpp"
#include "mount-helpers/accounts/savings.hpp"
#include "mount-helpers/guest/inside.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {

// One row an account, nearest to its limit first, those without a limit last; beneath it the VMs without a
// limit and the host. Where VMs run, a column says what is reclaimable inside. Names are escaped.
std::string status_table(const Snapshot& snapshot, const Insides& insides, TableStyle style);
// One account: its row, then its disks and what was refused.
std::string account_status(const AccountFigures& account, TableStyle style);

// What could be freed and which limits have no VM, a line each; nothing where there is none. Names are
// escaped.
std::string savings_text(const Savings& savings, const Insides& insides);

// "45 s", "12 min", "3 h 20 min", "4 days", "over a year".
std::string format_duration(uint64_t seconds);

}  // namespace limaquota
