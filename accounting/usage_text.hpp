// The texts of `.usage`, in the style of cgroup v2: `key value` lines, integers in bytes; disks nested keyed.
// Pure functions; thread safe.
#pragma once

#include <string>

#include "accounting/figures.hpp"

namespace limaquota {

// `.usage/<vm>`. Key order is fixed: limit used reserved available writable peak virtual state refused_writes
// refused_bytes growth_per_second seconds_to_full, then control_reserve... new keys, then `disk` lines.
// `limit`, `available` and `seconds_to_full` may be `max`. Names are escaped so that a hostile one stays on
// its line: space, backslash, control and non-UTF-8 bytes become \ooo (octal, as /proc/mounts does).
std::string usage_text(const AccountFigures& account);
// `.usage/_host`: free reserve used limits worst_case overcommit.
std::string host_text(const HostFigures& host);
// `.usage/_all.json`: {"host": {...}, "accounts": [{"name": ..., ...}]}; integers, `null` for max; ends in
// \n. Bytes that are not UTF-8 in names are replaced by U+FFFD.
std::string snapshot_json(const Snapshot& snapshot);
// `.usage/_metrics`: Prometheus text exposition format 0.0.4; units in the names
// (limaquota_used_bytes{vm="x"}); unlimited as +Inf; label values escaped as the format demands.
std::string prometheus_text(const Snapshot& snapshot);
// The `\ooo` escape described above.
std::string escape_name(std::string_view name);

}  // namespace limaquota
