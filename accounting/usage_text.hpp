// The texts of `.usage`, in the style of cgroup v2: `key value` lines, integers in bytes; disks nested keyed.
// Pure functions; thread safe.
#pragma once

#include <string>
#include <string_view>

#include "accounting/figures.hpp"

namespace limaquota {

// `.usage/<vm>`. Key order is fixed: limit used reserved available writable peak virtual state refused_writes
// refused_bytes growth_per_second seconds_to_full, then control_reserve... new keys, then `disk` lines.
// `limit`, `available` and `seconds_to_full` may be `max`. Names are escaped (escape.hpp), so that a hostile
// one stays on its line.
std::string usage_text(const AccountFigures& account);
// `.usage/_host`: free reserve used limits worst_case overcommit.
std::string host_text(const HostFigures& host);
// `.usage/_all.json`: {"host": {...}, "accounts": [{"name": ..., ...}]}; integers, `null` for max; ends in
// \n. U+FFFD for bytes that are no UTF-8 in a name, which then also stands, escaped, in `name_escaped`.
std::string snapshot_json(const Snapshot& snapshot);
// `.usage/_metrics`: Prometheus text exposition format 0.0.4; units in the names; `home` on every series
// (limaquota_used_bytes{home="/home/ann/.lima",vm="x"}), so that the homes of a host stay apart; unlimited as
// +Inf; limaquota_state is a state set: a series for each state, 1 for the one that holds, else 0. Label
// values are escaped as the format demands. limaquota_up is 1.
std::string prometheus_text(const Snapshot& snapshot, std::string_view home);
// What stands for a home whose mount does not answer: limaquota_up is 0, and no other series.
std::string prometheus_down_text(std::string_view home);

}  // namespace limaquota
