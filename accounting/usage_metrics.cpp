// `.usage/_metrics`
#include <fmt/core.h>

#include <optional>
#include <string>
#include <variant>

#include "accounting/escape.hpp"
#include "accounting/usage_keys.hpp"
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

using Account = AccountFigures;
std::string value_of(const Account& account, Bytes Account::*figure) { return size_or_inf(account.*figure); }
std::string value_of(const Account& account, uint64_t Account::*figure) {
  return std::to_string(account.*figure);
}
std::string value_of(const Account& account, std::optional<uint64_t> Account::*figure) {
  return account.*figure ? std::to_string(*(account.*figure)) : "+Inf";
}
std::string value_of(const Account& account, std::optional<Bytes> Account::*figure) {
  return size_or_inf((account.*figure).value_or(Bytes(0)));
}
// Words have no series of this kind.
std::string value_of(const Account&, StateKey) { return {}; }
std::string value_of(const Account&, LimitFileKey) { return {}; }

struct DiskMetric {
  std::string_view name;
  std::string_view help;
  Bytes DiskFigures::*value;
};

constexpr DiskMetric disk_metrics[] = {
    {"disk_allocated_bytes", "What the disk file occupies.", &DiskFigures::allocated},
    {"disk_virtual_bytes", "What the guest sees of the disk.", &DiskFigures::virtual_size},
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
  for (const HostKey& key : host_keys()) {
    metrics.begin(key.metric.name, key.metric.type, key.metric.help);
    metrics.sample("", size_or_inf(snapshot.host.*key.figure));
  }
  for (const AccountKey& key : account_keys()) {
    if (key.metric.name.empty()) continue;
    metrics.begin(key.metric.name, key.metric.type, key.metric.help);
    for (const AccountFigures& account : snapshot.accounts) {
      metrics.sample(vm_label(account),
                     std::visit([&](const auto& figure) { return value_of(account, figure); }, key.figure));
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
