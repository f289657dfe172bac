// What `limaquota plan` and `limaquota apply` share: reading templates and the host, deciding, showing.
// Templates: accounting/template.hpp; profiles: accounting/profile.hpp; the arithmetic: accounting/plan.hpp.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "accounting/plan.hpp"

namespace limaquota {

// A template as it stands in its files, filled in as Lima does for this home.
struct Candidate {
  std::string name;            // the file's name without .yaml
  std::filesystem::path file;  // absolute
  PlannedVm vm;
  std::optional<Profile> profile;
  std::string profile_text;
  std::string image_url;  // what Lima would download; empty: nothing, or not known
  bool image_cached = false;
  std::vector<std::string> disks;  // the additional disks that no VM uses yet
  std::vector<std::string> notes;  // for whoever reads the plan: what was assumed, what is odd
};

// What there is room for.
struct HostView {
  HostRoom room;
  Snapshot snapshot;        // of the home as it is
  bool free_given = false;  // by --free, for a host that may be another
  bool mounted = false;
  std::vector<std::string> notes;  // what could not be counted
};

// VMs that are to be made together, and the answer.
struct Plan {
  std::vector<Candidate> candidates;
  HostView host;
  Bytes images;  // downloads, each once
  PlanAnswer answer;
  std::vector<std::string> notes;  // beside those of the candidates

  bool fits() const { return answer.missing.count() == 0; }
};

// The template of that name or path. Throws WrongUse where there is none or it cannot be read, Refusal where
// an additional disk is missing.
Candidate read_candidate(const std::string& home, const std::string& name_or_path);
// The templates that ship with limaquota, by name; none where they are not installed.
std::vector<std::string> shipped_templates();
// Of this host and home, or with so much free. Throws Refusal.
HostView look_at_host(const std::string& home, std::optional<Bytes> free);
Plan make_plan(std::vector<Candidate> candidates, HostView host);
// One plan for each shipped template, and for each set that its profile says is used together.
std::vector<Plan> shipped_plans(const std::string& home, const HostView& host);

// "zfs-test-minimal + zfs-kernel-build".
std::string names_of(const Plan& plan);
// "fits, tight, overcommitted by 2 GiB", "does not fit: 3 GiB are missing".
std::string verdict(const Plan& plan);
std::string plan_text(const Plan& plan);
// A row a plan, and what has to be done for those that fit only tightly.
std::string plans_table(const std::vector<Plan>& plans);
// One line, without its end. Bytes are integers; null: without a bound.
std::string plan_json(const Plan& plan);

}  // namespace limaquota
