// The keys of the figures in `.usage`: what the text, the JSON and Prometheus call each, and into which field
// of figures.hpp a command reads it again. A new key is a field there, its value in ledger_figures.cpp, and a
// line in usage_keys.cpp. Constant tables; thread safe.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "accounting/figures.hpp"

namespace limaquota {

struct Metric {
  std::string_view name;  // behind "limaquota_", with its unit; empty: Prometheus gets none
  std::string_view type;  // "gauge" or "counter"
  std::string_view help;
};

// Two keys that are words, not numbers; Prometheus has the state as a set of series of its own.
struct StateKey {};
struct LimitFileKey {};

// Where a figure stands. An amount that is unlimited, and a time that never comes, is `max` in text, null in
// JSON and +Inf for Prometheus; a loan that is none has no line, no key, and is 0 for Prometheus.
using AccountFigure = std::variant<Bytes AccountFigures::*, uint64_t AccountFigures::*,
                                   std::optional<uint64_t> AccountFigures::*,
                                   std::optional<Bytes> AccountFigures::*, StateKey, LimitFileKey>;

struct AccountKey {
  std::string_view key;  // in text and JSON
  AccountFigure figure;
  Metric metric;
};

struct HostKey {
  std::string_view key;
  Bytes HostFigures::*figure;
  Metric metric;
};

// In the order in which they are shown.
std::span<const AccountKey> account_keys();
std::span<const HostKey> host_keys();

}  // namespace limaquota
