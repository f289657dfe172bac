// Puts templates and the host together and decides; which of the shipped templates would fit.
#include <fmt/core.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/survey.hpp"
#include "mount-helpers/plan/plan.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

// Free space where the home is, or where it would be made.
Bytes free_space(fs::path directory) {
  struct statvfs st {};
  while (::statvfs(directory.c_str(), &st) != 0) {
    if (errno != ENOENT || directory == directory.parent_path()) {
      throw Refusal(fmt::format("cannot see how much is free at {}: {}", escape_name(directory.string()),
                                std::strerror(errno)));
    }
    directory = directory.parent_path();
  }
  return Bytes(st.f_bavail) * st.f_frsize;
}

// A home that is not there yet is an empty one.
Report existing(const std::string& home, bool& mounted) {
  mounted = false;
  std::error_code error;
  if (auto report = read_report_if_mounted(home)) {
    mounted = true;
    return std::move(*report);
  }
  if (fs::exists(home, error) || error) return survey(home);
  Report none;
  none.snapshot.host.free = free_space(fs::absolute(home));
  none.snapshot.host.reserve = default_host_reserve;
  return none;
}

// What the detached disk adds to the host's worst case.
Bytes growth_of_disk(const Snapshot& snapshot, const std::string& disk) {
  const AccountFigures* account = find_account(snapshot, account_of_disk(disk));
  if (account == nullptr) return Bytes(0);
  return minus_or_zero(std::min(account->limit, account->virtual_size), account->used);
}

// A download that several templates share is counted once.
Bytes images_of(const std::vector<Candidate>& candidates, bool free_given, std::vector<std::string>& notes) {
  std::vector<std::string> seen;
  Bytes images;
  for (const Candidate& candidate : candidates) {
    const std::string& url = candidate.image_url;
    if (url.empty() || candidate.image_cached || std::find(seen.begin(), seen.end(), url) != seen.end())
      continue;
    seen.push_back(url);
    const auto size = candidate.profile ? candidate.profile->image : std::nullopt;
    if (free_given) {
      notes.push_back(
          fmt::format("image not counted, since --free speaks of another host: {}", escape_name(url)));
    } else if (size) {
      images = plus_or_unlimited(images, *size);
      notes.push_back(fmt::format("image not in Lima's cache yet, {} to download: {}", format_size(*size),
                                  escape_name(url)));
    } else {
      notes.push_back(
          fmt::format("image not counted: size unknown, not in Lima's cache: {}", escape_name(url)));
    }
  }
  return images;
}

}  // namespace

HostView look_at_host(const std::string& home, std::optional<Bytes> free) {
  HostView view;
  Report report = existing(home, view.mounted);
  view.snapshot = std::move(report.snapshot);
  view.notes = std::move(report.notes);
  view.free_given = free.has_value();
  const HostFigures& host = view.snapshot.host;
  view.room = {free.value_or(host.free), host.reserve, host.worst_case};
  return view;
}

Plan make_plan(std::vector<Candidate> candidates, HostView host) {
  Plan plan;
  std::vector<PlannedVm> vms;
  std::vector<std::string> disks;
  for (const Candidate& candidate : candidates) {
    vms.push_back(candidate.vm);
    disks.insert(disks.end(), candidate.disks.begin(), candidate.disks.end());
  }
  std::sort(disks.begin(), disks.end());
  disks.erase(std::unique(disks.begin(), disks.end()), disks.end());
  // The new VM that takes a disk over answers for its growth.
  for (const std::string& disk : disks) {
    if (!host.room.growth.is_unlimited()) {
      host.room.growth = minus_or_zero(host.room.growth, growth_of_disk(host.snapshot, disk));
    }
  }
  plan.images = images_of(candidates, host.free_given, plan.notes);
  plan.answer = plan_for(vms, plan.images, host.room);
  plan.candidates = std::move(candidates);
  plan.host = std::move(host);
  return plan;
}

std::vector<Plan> shipped_plans(const std::string& home, const HostView& host) {
  std::vector<Plan> alone, together;
  for (const std::string& name : shipped_templates()) {
    const Candidate candidate = read_candidate(home, name);
    alone.push_back(make_plan({candidate}, host));
    if (!candidate.profile || candidate.profile->beside.empty()) continue;
    std::vector<Candidate> set;
    for (const std::string& other : candidate.profile->beside) set.push_back(read_candidate(home, other));
    set.push_back(candidate);
    together.push_back(make_plan(std::move(set), host));
  }
  alone.insert(alone.end(), together.begin(), together.end());
  return alone;
}

std::string names_of(const Plan& plan) {
  std::string names;
  for (const Candidate& candidate : plan.candidates) {
    names += (names.empty() ? "" : " + ") + escape_name(candidate.name);
  }
  return names;
}

std::string verdict(const Plan& plan) {
  const PlanAnswer& answer = plan.answer;
  std::string text(to_string(answer.fit));
  if (!plan.fits()) return text + fmt::format(": {} missing", format_size(answer.missing));
  if (answer.overcommitted.is_unlimited()) return text + ", overcommitted without a bound";
  if (answer.overcommitted.count() > 0) {
    text += fmt::format(", overcommitted by {}", format_size(answer.overcommitted));
  }
  return text;
}

}  // namespace limaquota
