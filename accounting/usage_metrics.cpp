// `.usage/_metrics`
#include <fmt/core.h>

#include "accounting/escape.hpp"
#include "accounting/usage_text.hpp"

namespace limaquota {
namespace {

std::string size_or_inf(Bytes bytes) { return bytes.is_unlimited() ? "+Inf" : std::to_string(bytes.count()); }

// One metric after the other: a line for HELP and TYPE each, then its samples, all with the label `home`.
class Metrics {
 public:
  explicit Metrics(std::string_view home) : home_(fmt::format("home=\"{}\"", escape_label(home))) {}
  void begin(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP limaquota_{0} {2}\n# TYPE limaquota_{0} {1}\n", name, type, help);
  }
  // `labels`: those beside `home`.
  void sample(std::string_view labels, std::string_view value) {
    text_ +=
        fmt::format("limaquota_{}{{{}{}{}}} {}\n", name_, home_, labels.empty() ? "" : ",", labels, value);
  }
  std::string take() { return std::move(text_); }

 private:
  const std::string home_;
  std::string name_;
  std::string text_;
};

struct AccountMetric {
  std::string_view name;
  std::string_view type;
  std::string_view help;
  std::string (*value)(const AccountFigures&);
};

constexpr AccountMetric account_metrics[] = {
    {"limit_bytes", "gauge", "What the account may occupy, a loan included.",
     [](const AccountFigures& a) { return size_or_inf(a.limit); }},
    {"used_bytes", "gauge", "What the account occupies, as du counts; an attached disk counts in its VM too.",
     [](const AccountFigures& a) { return size_or_inf(a.used); }},
    {"reserved_bytes", "gauge", "What is set aside for writes under way and for late metadata.",
     [](const AccountFigures& a) { return size_or_inf(a.reserved); }},
    {"available_bytes", "gauge", "Limit less used less reserved.",
     [](const AccountFigures& a) { return size_or_inf(a.available); }},
    {"writable_bytes", "gauge", "What a disk write may take now.",
     [](const AccountFigures& a) { return size_or_inf(a.writable); }},
    {"peak_bytes", "gauge", "The largest used since the mount.",
     [](const AccountFigures& a) { return size_or_inf(a.peak); }},
    {"virtual_bytes", "gauge", "What the guests see, summed over the disks.",
     [](const AccountFigures& a) { return size_or_inf(a.virtual_size); }},
    {"disk_line_bytes", "gauge", "Where disk files stop: limit less control reserve.",
     [](const AccountFigures& a) { return size_or_inf(a.disk_line); }},
    {"loan_bytes", "gauge", "Part of the limit that is lent for a time.",
     [](const AccountFigures& a) { return size_or_inf(a.loan.value_or(Bytes(0))); }},
    {"refused_writes_total", "counter", "Requests refused for want of budget.",
     [](const AccountFigures& a) { return std::to_string(a.refused_writes); }},
    {"refused_bytes_total", "counter", "Bytes of the requests refused for want of budget.",
     [](const AccountFigures& a) { return std::to_string(a.refused_bytes); }},
    {"growth_bytes_per_second", "gauge", "How fast used grows.",
     [](const AccountFigures& a) { return std::to_string(a.growth_per_second); }},
    {"time_to_full_seconds", "gauge", "When the account is full at that growth.",
     [](const AccountFigures& a) { return a.seconds_to_full ? std::to_string(*a.seconds_to_full) : "+Inf"; }},
};

struct DiskMetric {
  std::string_view name;
  std::string_view help;
  Bytes DiskFigures::*value;
};

constexpr DiskMetric disk_metrics[] = {
    {"disk_allocated_bytes", "What the disk file occupies.", &DiskFigures::allocated},
    {"disk_virtual_bytes", "What the guest sees of the disk.", &DiskFigures::virtual_size},
};

struct HostMetric {
  std::string_view name;
  std::string_view help;
  Bytes HostFigures::*value;
};

constexpr HostMetric host_metrics[] = {
    {"host_free_bytes", "Free space of the backing filesystem.", &HostFigures::free},
    {"host_reserve_bytes", "Free space that disk files leave to the host.", &HostFigures::reserve},
    {"host_used_bytes", "Used by all accounts.", &HostFigures::used},
    {"host_limits_bytes", "Sum of all limits.", &HostFigures::limits},
    {"host_worst_case_bytes", "What all accounts may still grow by.", &HostFigures::worst_case},
    {"host_overcommit_bytes", "Worst case beyond free less reserve; 0 is safe.", &HostFigures::overcommit},
};

void add_up(Metrics& metrics, bool up) {
  metrics.begin("up", "gauge", "1 where the mount of this home answers, else 0.");
  metrics.sample("", up ? "1" : "0");
}

std::string vm_label(const AccountFigures& account) {
  return fmt::format("vm=\"{}\"", escape_label(account.name));
}

}  // namespace

std::string prometheus_text(const Snapshot& snapshot, std::string_view home) {
  Metrics metrics(home);
  add_up(metrics, true);
  for (const HostMetric& metric : host_metrics) {
    metrics.begin(metric.name, "gauge", metric.help);
    metrics.sample("", size_or_inf(snapshot.host.*metric.value));
  }
  for (const AccountMetric& metric : account_metrics) {
    metrics.begin(metric.name, metric.type, metric.help);
    for (const AccountFigures& account : snapshot.accounts) {
      metrics.sample(vm_label(account), metric.value(account));
    }
  }
  metrics.begin("state", "gauge", "1 for the state that the account is in, 0 for the others.");
  for (const AccountFigures& account : snapshot.accounts) {
    const std::string vm = vm_label(account);
    for (const AccountState state : account_states) {
      metrics.sample(fmt::format("{},state=\"{}\"", vm, to_string(state)),
                     account.state == state ? "1" : "0");
    }
  }
  for (const DiskMetric& metric : disk_metrics) {
    metrics.begin(metric.name, "gauge", metric.help);
    for (const AccountFigures& account : snapshot.accounts) {
      for (const DiskFigures& disk : account.disks) {
        metrics.sample(fmt::format("{},disk=\"{}\",format=\"{}\"", vm_label(account), escape_label(disk.name),
                                   escape_label(disk.format)),
                       size_or_inf(disk.*metric.value));
      }
    }
  }
  return metrics.take();
}

std::string prometheus_down_text(std::string_view home) {
  Metrics metrics(home);
  add_up(metrics, false);
  return metrics.take();
}

}  // namespace limaquota
