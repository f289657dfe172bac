#include "accounting/usage_keys.hpp"

namespace limaquota {
namespace {

constexpr AccountKey of_account[] = {
    {"limit",
     &AccountFigures::limit,
     {"limit_bytes", "gauge", "What the account may occupy, a loan included."}},
    {"used",
     &AccountFigures::used,
     {"used_bytes", "gauge",
      "What the account occupies, as du counts; an attached disk counts in its VM too."}},
    {"reserved",
     &AccountFigures::reserved,
     {"reserved_bytes", "gauge", "What is set aside for writes under way and for late metadata."}},
    {"available", &AccountFigures::available, {"available_bytes", "gauge", "Limit less used less reserved."}},
    {"writable", &AccountFigures::writable, {"writable_bytes", "gauge", "What a disk write may take now."}},
    {"peak", &AccountFigures::peak, {"peak_bytes", "gauge", "The largest used since the mount."}},
    {"virtual",
     &AccountFigures::virtual_size,
     {"virtual_bytes", "gauge", "What the guests see, summed over the disks."}},
    {"state", StateKey{}, {}},
    {"refused_writes",
     &AccountFigures::refused_writes,
     {"refused_writes_total", "counter", "Requests refused for want of budget."}},
    {"refused_bytes",
     &AccountFigures::refused_bytes,
     {"refused_bytes_total", "counter", "Bytes of the requests refused for want of budget."}},
    {"growth_per_second",
     &AccountFigures::growth_per_second,
     {"growth_bytes_per_second", "gauge", "How fast used grows."}},
    {"seconds_to_full",
     &AccountFigures::seconds_to_full,
     {"time_to_full_seconds", "gauge", "When the account is full at that growth."}},
    {"disk_line",
     &AccountFigures::disk_line,
     {"disk_line_bytes", "gauge", "Where disk files stop: limit less control reserve."}},
    {"limit_file", LimitFileKey{}, {}},
    {"loan", &AccountFigures::loan, {"loan_bytes", "gauge", "Part of the limit that is lent for a time."}},
};

constexpr HostKey of_host[] = {
    {"free", &HostFigures::free, {"host_free_bytes", "gauge", "Free space of the backing filesystem."}},
    {"reserve",
     &HostFigures::reserve,
     {"host_reserve_bytes", "gauge", "Free space that disk files leave to the host."}},
    {"used", &HostFigures::used, {"host_used_bytes", "gauge", "Used by all accounts."}},
    {"limits", &HostFigures::limits, {"host_limits_bytes", "gauge", "Sum of all limits."}},
    {"worst_case",
     &HostFigures::worst_case,
     {"host_worst_case_bytes", "gauge", "What all accounts may still grow by."}},
    {"overcommit",
     &HostFigures::overcommit,
     {"host_overcommit_bytes", "gauge", "Worst case beyond free less reserve; 0 is safe."}},
};

}  // namespace

std::span<const AccountKey> account_keys() { return of_account; }
std::span<const HostKey> host_keys() { return of_host; }

}  // namespace limaquota
