#include "fs/texts/usage_files.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"

namespace limaquota {
namespace {
constexpr std::string_view json_file = "_all.json";
constexpr std::string_view metrics_file = "_metrics";

std::string processes_text(const ProcessNotes& processes) {
  return fmt::format("supervisor_pid {}\nworker_pid {}\nworker_restarts {}\n", processes.supervisor,
                     processes.worker.load(), processes.restarts.load());
}
}  // namespace

bool UsageFiles::is_file(std::string_view path) const {
  return path == host_name || path == json_file || path == metrics_file || ledger_.find(path).has_value();
}

std::vector<std::string> UsageFiles::names(std::string_view directory) const {
  std::vector<std::string> names;
  const std::string prefix = directory.empty() ? "" : std::string(directory) + "/";
  if (directory.empty()) {
    for (const std::string_view name : {host_name, json_file, metrics_file, disks_directory})
      names.emplace_back(name);
  }
  for (const std::string& account : ledger_.names()) {
    if (!account.starts_with(prefix)) continue;
    const std::string rest = account.substr(prefix.size());
    if (rest.find('/') == std::string::npos) names.push_back(rest);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> UsageFiles::text(std::string_view path) const {
  const Bytes free = backing_.free_bytes();
  if (path == host_name) return host_text(ledger_.host_figures(free)) + processes_text(notes_.process);
  if (path == json_file) return snapshot_json(ledger_.snapshot(free));
  if (path == metrics_file) return prometheus_text(ledger_.snapshot(free), home_);
  if (const auto figures = ledger_.figures(path, free)) return usage_text(*figures);
  return std::nullopt;
}

}  // namespace limaquota
