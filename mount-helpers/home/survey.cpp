#include "mount-helpers/home/survey.hpp"

#include <fmt/core.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "accounting/usage_text.hpp"
#include "fs/daemon/survey_home.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {

Report survey(const std::string& home) {
  Result<Survey> seen = survey_home(home);
  if (!seen) {
    const int error = seen.error().value;
    const char* advice = error == ENOENT || error == ENOTDIR
                             ? "; name the Lima home with --home, or let limactl make it at its first start"
                             : "";
    throw Refusal(fmt::format("cannot read {}: {}{}", home, std::strerror(error), advice));
  }
  // One way to the values, whoever wrote the text.
  Report report = parse_report(snapshot_json(seen->snapshot), home);
  report.snapshot = std::move(seen->snapshot);
  report.notes = std::move(seen->notes);
  return report;
}

Report read_report_or_survey(const std::string& home, bool& mounted) {
  std::optional<Report> report = read_report_if_mounted(home);
  mounted = report.has_value();
  return mounted ? std::move(*report) : survey(home);
}

}  // namespace limaquota
