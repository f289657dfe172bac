#include "accounting/usage_text.hpp"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>

namespace limaquota {
namespace {

// The length of the UTF-8 sequence at the front, or 0 where there is none (overlong forms, surrogates and
// what lies beyond U+10FFFF are none).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(1);
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool outside = (lead == 0xed && second > 0x9f) || (lead == 0xf4 && second > 0x8f);
  return overlong || outside ? 0 : length;
}

// Control characters: C0, DEL, C1 (terminals obey those too) and the line separators U+2028 and U+2029.
bool is_control(std::string_view character) {
  if (character.size() == 1) return character[0] < ' ' || character[0] == 0x7f;
  return (character[0] == '\xc2' && static_cast<unsigned char>(character[1]) < 0xa0) ||
         character == "\u2028" || character == "\u2029";
}

// Calls `visit` with each character of a name, or with a single byte that is none (`valid` is false then).
template <class Visit>
void for_each_character(std::string_view name, Visit visit) {
  while (!name.empty()) {
    const size_t length = utf8_length(name);
    visit(name.substr(0, length == 0 ? 1 : length), length != 0);
    name.remove_prefix(length == 0 ? 1 : length);
  }
}

void append_octal(std::string& text, std::string_view bytes) {
  for (const char c : bytes) text += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
}

std::string size_or_max(Bytes bytes) { return bytes.is_unlimited() ? "max" : fmt::to_string(bytes.count()); }

std::string_view limit_file_of(const AccountFigures& account) {
  if (account.state == AccountState::damaged) return "damaged";
  return account.has_limit_file ? "yes" : "no";
}

std::string_view kind_of(const AccountFigures& account) {
  if (account.name == "_shared") return "shared";
  return account.name.starts_with("_disks/") ? "disk" : "vm";
}

using Json = nlohmann::ordered_json;

Json size_or_null(Bytes bytes) { return bytes.is_unlimited() ? Json(nullptr) : Json(bytes.count()); }

bool is_utf8(std::string_view name) {
  bool all_valid = true;
  for_each_character(name, [&](std::string_view, bool valid) { all_valid = all_valid && valid; });
  return all_valid;
}

// What JSON cannot carry stands beside it, escaped.
Json named(const std::string& name) {
  Json json;
  json["name"] = name;
  if (!is_utf8(name)) json["name_escaped"] = escape_name(name);
  return json;
}

Json account_json(const AccountFigures& account) {
  Json json = named(account.name);
  json["kind"] = kind_of(account);
  json["limit"] = size_or_null(account.limit);
  json["used"] = account.used.count();
  json["reserved"] = account.reserved.count();
  json["available"] = size_or_null(account.available);
  json["writable"] = size_or_null(account.writable);
  json["peak"] = account.peak.count();
  json["virtual"] = account.virtual_size.count();
  json["state"] = to_string(account.state);
  json["refused_writes"] = account.refused_writes;
  json["refused_bytes"] = account.refused_bytes;
  json["growth_per_second"] = account.growth_per_second;
  json["seconds_to_full"] = account.seconds_to_full ? Json(*account.seconds_to_full) : Json(nullptr);
  json["disk_line"] = size_or_null(account.disk_line);
  json["limit_file"] = limit_file_of(account);
  if (account.loan) json["loan"] = account.loan->count();
  json["disks"] = Json::array();
  for (const DiskFigures& disk : account.disks) {
    Json file = named(disk.name);
    file["format"] = disk.format;
    file["allocated"] = disk.allocated.count();
    file["virtual"] = disk.virtual_size.count();
    json["disks"].push_back(std::move(file));
  }
  return json;
}

std::string size_or_inf(Bytes bytes) { return bytes.is_unlimited() ? "+Inf" : fmt::to_string(bytes.count()); }

// A Prometheus label value: UTF-8, in which backslash, quote and newline are escaped. A byte that is no UTF-8
// is shown as \ooo rather than replaced, so that two names stay two time series.
std::string label(std::string_view value) {
  std::string text;
  for_each_character(value, [&](std::string_view character, bool valid) {
    if (!valid) {
      text += '\\';
      append_octal(text, character);
    } else if (character == "\n") {
      text += "\\n";
    } else {
      if (character == "\\" || character == "\"") text += '\\';
      text += character;
    }
  });
  return text;
}

// One metric after the other: a line for HELP and TYPE each, then its samples, all with the label `home`.
class Metrics {
 public:
  explicit Metrics(std::string_view home) : home_(fmt::format("home=\"{}\"", label(home))) {}
  void begin(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    fmt::format_to(std::back_inserter(text_), "# HELP limaquota_{0} {2}\n# TYPE limaquota_{0} {1}\n", name,
                   type, help);
  }
  // `labels`: those beside `home`.
  void sample(std::string_view labels, std::string_view value) {
    fmt::format_to(std::back_inserter(text_), "limaquota_{}{{{}{}{}}} {}\n", name_, home_,
                   labels.empty() ? "" : ",", labels, value);
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

std::string vm_label(const AccountFigures& account) { return fmt::format("vm=\"{}\"", label(account.name)); }

}  // namespace

std::string_view to_string(AccountState state) {
  switch (state) {
    case AccountState::ok:
      return "ok";
    case AccountState::warn:
      return "warn";
    case AccountState::full:
      return "full";
    case AccountState::host_full:
      return "host_full";
    case AccountState::over:
      return "over";
    case AccountState::damaged:
      return "damaged";
    case AccountState::outside:
      return "outside";
  }
  return "ok";
}

std::string escape_name(std::string_view name) {
  std::string text;
  for_each_character(name, [&](std::string_view character, bool valid) {
    if (!valid || is_control(character) || character == " " || character == "\\") {
      append_octal(text, character);
    } else {
      text += character;
    }
  });
  return text;
}

std::string escape_words(std::string_view text) {
  std::string words;
  for (size_t start = 0; start <= text.size();) {
    const size_t blank = std::min(text.find(' ', start), text.size());
    words += (start == 0 ? "" : " ") + escape_name(text.substr(start, blank - start));
    start = blank + 1;
  }
  return words;
}

std::string usage_text(const AccountFigures& account) {
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "limit {}\nused {}\nreserved {}\n", size_or_max(account.limit), account.used.count(),
                 account.reserved.count());
  fmt::format_to(out, "available {}\nwritable {}\npeak {}\nvirtual {}\n", size_or_max(account.available),
                 size_or_max(account.writable), account.peak.count(), account.virtual_size.count());
  fmt::format_to(out, "state {}\nrefused_writes {}\nrefused_bytes {}\n", to_string(account.state),
                 account.refused_writes, account.refused_bytes);
  fmt::format_to(out, "growth_per_second {}\nseconds_to_full {}\n", account.growth_per_second,
                 account.seconds_to_full ? fmt::to_string(*account.seconds_to_full) : "max");
  fmt::format_to(out, "disk_line {}\nlimit_file {}\n", size_or_max(account.disk_line),
                 limit_file_of(account));
  if (account.loan) fmt::format_to(out, "loan {}\n", account.loan->count());
  for (const DiskFigures& disk : account.disks) {
    fmt::format_to(out, "disk name={} format={} allocated={} virtual={}\n", escape_name(disk.name),
                   escape_name(disk.format), disk.allocated.count(), disk.virtual_size.count());
  }
  return text;
}

std::string host_text(const HostFigures& host) {
  return fmt::format("free {}\nreserve {}\nused {}\nlimits {}\nworst_case {}\novercommit {}\n",
                     size_or_max(host.free), size_or_max(host.reserve), size_or_max(host.used),
                     size_or_max(host.limits), size_or_max(host.worst_case), size_or_max(host.overcommit));
}

std::string snapshot_json(const Snapshot& snapshot) {
  const HostFigures& host = snapshot.host;
  Json json;
  json["host"] = {{"free", size_or_null(host.free)},
                  {"reserve", size_or_null(host.reserve)},
                  {"used", size_or_null(host.used)},
                  {"limits", size_or_null(host.limits)},
                  {"worst_case", size_or_null(host.worst_case)},
                  {"overcommit", size_or_null(host.overcommit)}};
  json["accounts"] = Json::array();
  for (const AccountFigures& account : snapshot.accounts) json["accounts"].push_back(account_json(account));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

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
        metrics.sample(fmt::format("{},disk=\"{}\",format=\"{}\"", vm_label(account), label(disk.name),
                                   label(disk.format)),
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
