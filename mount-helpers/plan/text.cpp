// A plan for people, and as JSON. Virtual, limit, peak, steady and worst case stand in columns of their own.
#include <fmt/core.h>

#include <algorithm>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/plan/plan.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

using Row = std::vector<std::string>;

std::string estimate_text(const Estimate& estimate) {
  const std::string low = format_size(estimate.low);
  std::string high = format_size(estimate.high);
  if (low == high) return high;
  const size_t unit = high.rfind(' ');
  const bool same_unit = unit != std::string::npos && low.ends_with(high.substr(unit));
  return fmt::format("{} to {}", same_unit ? low.substr(0, low.rfind(' ')) : low, high);
}

// A name, then so many figures, aligned to the right, then text.
std::string table(const std::vector<Row>& rows, size_t figures) {
  std::vector<size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - columns_of(row[i]), ' ');
      const bool is_figure = i > 0 && i <= figures;
      line += (i == 0 ? "" : "  ") + (is_figure ? padding + row[i] : row[i] + padding);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

constexpr size_t figure_columns = 5;

Row row_of(std::string name, Bytes virtual_size, Bytes limit, const Estimate& peak, const Estimate& steady,
           Bytes worst_case) {
  return {std::move(name),     format_size(virtual_size), format_size(limit),
          estimate_text(peak), estimate_text(steady),     format_size(worst_case)};
}

Row row_of(const PlanAnswer& answer, std::string name) {
  return row_of(std::move(name), answer.virtual_size, answer.limit, answer.peak, answer.steady,
                answer.worst_case);
}

// The lines of its profile, in the columns of the peak and of the steady state.
void add_lines(std::vector<Row>& rows, const Candidate& candidate) {
  if (!candidate.profile) return;
  for (const ProfileLine& line : candidate.profile->lines) {
    rows.push_back(
        {"  " + escape_words(line.name), "", "", estimate_text(line.peak), estimate_text(line.steady), ""});
  }
}

std::string zfs_text(const ZfsMirror& pool) {
  const Bytes usable = zfs_mirror_usable(pool.file);
  std::string text = fmt::format(
      "  ZFS: a mirror of {} files is full at about {} of incompressible data:\n"
      "  it keeps slop space of 1/32 of the pool, at least 128 MiB, at most half\n",
      format_size(pool.file), format_size(usable));
  if (pool.quota && *pool.quota > usable) {
    const Bytes file = zfs_mirror_file_for(*pool.quota);
    text += fmt::format(
        "  so its quota of {} is never reached: that takes files of {} ({} more for the mirror)\n",
        format_size(*pool.quota), format_size(file), format_size(minus_or_zero(file, pool.file) * 2));
  }
  return text;
}

std::string must_text(const Candidate& candidate) {
  if (!candidate.profile || candidate.profile->must.empty()) return "";
  std::string text = fmt::format("  What must be done in {}:\n", escape_name(candidate.name));
  for (const std::string& step : candidate.profile->must) text += fmt::format("  - {}\n", escape_words(step));
  return text;
}

std::string candidate_text(const Candidate& candidate) {
  std::string text;
  if (candidate.profile) {
    const Profile& profile = *candidate.profile;
    if (!profile.advice.empty()) {
      text += fmt::format("{}: {}\n", escape_name(candidate.name), escape_words(profile.advice));
    }
    if (profile.temporary) {
      text += fmt::format("{}: temporary, deleted when its work is done\n", escape_name(candidate.name));
    }
    if (profile.zfs) text += zfs_text(*profile.zfs);
    text += must_text(candidate);
  }
  for (const std::string& note : candidate.notes) {
    text += fmt::format("{}: {}\n", escape_name(candidate.name), note);
  }
  return text;
}

// What stays when the temporary VMs are deleted.
std::string kept_text(const Plan& plan) {
  std::string names;
  for (const Candidate& candidate : plan.candidates) {
    if (candidate.vm.temporary) names += (names.empty() ? "" : ", ") + escape_name(candidate.name);
  }
  if (names.empty()) return "";
  return fmt::format("After deleting {}: {}\n", names, estimate_text(plan.answer.kept));
}

std::string left_text(Bytes left, Bytes missing) {
  return missing.count() > 0 ? fmt::format("{} missing", format_size(missing))
                             : fmt::format("{} left", format_size(left));
}

// What additional disks occupy already, and so need no more.
std::string present_text(const Plan& plan) {
  Bytes present;
  for (const Candidate& candidate : plan.candidates)
    present = plus_or_unlimited(present, candidate.vm.present);
  return present.count() == 0 ? "" : fmt::format(" - {} there already", format_size(present));
}

std::string sums_text(const Plan& plan) {
  const PlanAnswer& answer = plan.answer;
  const HostRoom& room = plan.host.room;
  const std::string images =
      plan.images.count() == 0 ? "" : fmt::format(" + image {}", format_size(plan.images));
  std::string text =
      fmt::format("Host: {} free{}, of which {} are its reserve; existing VMs may still grow by {}\n",
                  format_size(room.free), plan.host.free_given ? " (--free)" : "", format_size(room.reserve),
                  format_size(room.growth));
  if (!plan.host.mounted) text += "The home is not mounted: its figures are counted by du\n";
  for (const std::string& note : plan.host.notes) text += note + "\n";
  text += fmt::format("At the peak: {}{}{} + reserve {} = {} of {}: {}\n", estimate_text(answer.peak),
                      present_text(plan), images, format_size(room.reserve), format_size(answer.needed),
                      format_size(room.free), left_text(answer.left, answer.missing));
  text += fmt::format("Worst case:  {} + growth {}{} + reserve {} = {} of {}: {}\n",
                      format_size(answer.worst_case), format_size(room.growth), images,
                      format_size(room.reserve), format_size(answer.needed_at_worst), format_size(room.free),
                      left_text(minus_or_zero(room.free, answer.needed_at_worst), answer.overcommitted));
  return text;
}

Json json_of(const Estimate& estimate) {
  return {{"low", estimate.low.count()}, {"high", estimate.high.count()}};
}

Json json_of(Bytes bytes) { return bytes.is_unlimited() ? Json() : Json(bytes.count()); }

Json json_of(const Candidate& candidate) {
  const PlannedVm& vm = candidate.vm;
  Json json = {{"template", candidate.name},
               {"file", candidate.file.string()},
               {"virtual", json_of(vm.virtual_size)},
               {"limit", json_of(vm.limit)},
               {"peak", json_of(vm.peak)},
               {"steady", json_of(vm.steady)},
               {"worst_case", json_of(vm.worst_case())},
               {"present", json_of(vm.present)},
               {"temporary", vm.temporary},
               {"profile", candidate.profile.has_value()},
               {"notes", candidate.notes}};
  if (!candidate.profile) return json;
  const Profile& profile = *candidate.profile;
  json["advice"] = profile.advice;
  json["must"] = profile.must;
  for (const ProfileLine& line : profile.lines) {
    json["lines"].push_back(
        {{"name", line.name}, {"peak", json_of(line.peak)}, {"steady", json_of(line.steady)}});
  }
  if (profile.zfs) {
    json["zfs"] = {{"file", json_of(profile.zfs->file)},
                   {"usable", json_of(zfs_mirror_usable(profile.zfs->file))}};
    if (profile.zfs->quota) {
      json["zfs"]["quota"] = json_of(*profile.zfs->quota);
      json["zfs"]["file_for_quota"] = json_of(zfs_mirror_file_for(*profile.zfs->quota));
    }
  }
  return json;
}

}  // namespace

std::string plan_text(const Plan& plan) {
  std::vector<Row> rows = {{"VM", "VIRTUAL", "LIMIT", "PEAK", "STEADY", "WORST CASE"}};
  for (const Candidate& candidate : plan.candidates) {
    const PlannedVm& vm = candidate.vm;
    rows.push_back(
        row_of(escape_name(candidate.name), vm.virtual_size, vm.limit, vm.peak, vm.steady, vm.worst_case()));
    add_lines(rows, candidate);
  }
  if (plan.candidates.size() > 1) rows.push_back(row_of(plan.answer, "together"));
  std::string text = table(rows, figure_columns) + kept_text(plan) + "\n";
  for (const Candidate& candidate : plan.candidates) text += candidate_text(candidate);
  for (const std::string& note : plan.notes) text += note + "\n";
  return text + "\n" + sums_text(plan) + "Answer: " + verdict(plan) + "\n";
}

std::string plans_table(const std::vector<Plan>& plans) {
  std::vector<Row> rows = {{"TEMPLATES", "VIRTUAL", "LIMIT", "PEAK", "STEADY", "WORST CASE", "ANSWER"}};
  std::string must;
  for (const Plan& plan : plans) {
    Row row = row_of(plan.answer, names_of(plan));
    std::string answer = verdict(plan);
    for (const Candidate& candidate : plan.candidates) {
      if (candidate.profile && !candidate.profile->advice.empty()) {
        answer += "; " + escape_words(candidate.profile->advice);
      }
      if (plan.answer.fit == Fit::tight || plan.answer.fit == Fit::very_tight) must += must_text(candidate);
    }
    row.push_back(std::move(answer));
    rows.push_back(std::move(row));
  }
  return table(rows, figure_columns) + must;
}

std::string plan_json(const Plan& plan) {
  const PlanAnswer& answer = plan.answer;
  Json json = {{"fits", plan.fits()},
               {"answer", verdict(plan)},
               {"free", json_of(plan.host.room.free)},
               {"free_given", plan.host.free_given},
               {"mounted", plan.host.mounted},
               {"reserve", json_of(plan.host.room.reserve)},
               {"growth", json_of(plan.host.room.growth)},
               {"images", json_of(plan.images)},
               {"virtual", json_of(answer.virtual_size)},
               {"limit", json_of(answer.limit)},
               {"peak", json_of(answer.peak)},
               {"steady", json_of(answer.steady)},
               {"kept", json_of(answer.kept)},
               {"worst_case", json_of(answer.worst_case)},
               {"needed", json_of(answer.needed)},
               {"left", json_of(answer.left)},
               {"missing", json_of(answer.missing)},
               {"needed_at_worst", json_of(answer.needed_at_worst)},
               {"overcommitted", json_of(answer.overcommitted)},
               {"notes", plan.notes},
               {"vms", Json::array()}};
  for (const Candidate& candidate : plan.candidates) json["vms"].push_back(json_of(candidate));
  return json_text(json);  // names need not be UTF-8
}

}  // namespace limaquota
