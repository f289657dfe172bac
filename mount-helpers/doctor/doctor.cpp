// limaquota doctor [--json] [--home DIR]
#include "mount-helpers/doctor/doctor.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "accounting/json.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

struct DoctorArguments {
  std::string home;
  bool json = false;
};

std::string_view colour_of(Severity severity) {
  switch (severity) {
    case Severity::ok:
      return "\033[32m";
    case Severity::note:
      return "\033[2m";
    case Severity::warning:
      return "\033[33m";
    case Severity::problem:
      return "\033[31m";
  }
  return "";
}

Patient patient_of(const std::string& home) {
  Patient patient;
  patient.home = home;
  try {
    patient.home = real_path(home);
    patient.mount = mount_state(patient.home);
    patient.exists = true;
    std::error_code error;
    if (patient.is_readable()) patient.exists = std::filesystem::is_directory(patient.home, error);
  } catch (const Refusal&) {  // there is no such path
  }
  return patient;
}

Findings examine(const Patient& patient) {
  Findings findings;
  check_machine(patient, findings);
  if (!patient.exists) {
    findings.push_back({Severity::problem, "home", patient.home + " is no directory",
                        "name the Lima home with --home, or let limactl make it at its first start"});
  }
  check_mounts(patient, findings);
  check_units(patient, findings);
  if (patient.is_readable()) check_tree(patient, findings);
  return findings;
}

void print_json(const Patient& patient, const Findings& findings, bool held) {
  Json json = {{"home", patient.home},
               {"mounted", patient.mount == MountState::alive},
               {"limits_held", held},
               {"findings", Json::array()}};
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"severity", to_string(finding.severity)},
                                {"topic", finding.topic},
                                {"text", finding.text},
                                {"advice", finding.advice}});
  }
  fmt::print("{}\n", json_text(json));
}

void print_text(const Findings& findings, bool held) {
  const bool colour = style_of_output().colour;
  for (const Finding& finding : findings) {
    fmt::print("{}{:<8}{} {}: {}{}{}\n", colour ? colour_of(finding.severity) : "",
               to_string(finding.severity), colour ? "\033[0m" : "", finding.topic, finding.text,
               finding.advice.empty() ? "" : "; ", finding.advice);
  }
  if (!held) fmt::print("The limits are not held, or not for all: see each \"problem\".\n");
}

}  // namespace

std::string_view to_string(Severity severity) {
  switch (severity) {
    case Severity::ok:
      return "ok";
    case Severity::note:
      return "note";
    case Severity::warning:
      return "warning";
    case Severity::problem:
      return "problem";
  }
  return "ok";
}

void add_doctor(Program& program) {
  Command command = program.command("doctor", "Look for what keeps limits from being held");
  auto arguments = std::make_shared<DoctorArguments>();
  command.flag("--json", arguments->json, "As JSON");
  add_home_option(command, arguments->home);
  command.footer(
      "One line a finding: ok, note, warning or problem, where it is, and what to do. Exit status 1 only for "
      "a "
      "problem: what keeps limits from being held. Changes nothing.\n"
      "Examples:\n"
      "  limaquota doctor\n"
      "  limaquota doctor --home /srv/lima\n"
      "  limaquota doctor --json | jq '.findings[] | select(.severity == \"problem\")'");
  program.on(command, [arguments] {
    const Patient patient = patient_of(choose_home(arguments->home));
    const Findings findings = examine(patient);
    const bool held = std::none_of(findings.begin(), findings.end(), [](const Finding& finding) {
      return finding.severity == Severity::problem;
    });
    if (arguments->json) {
      print_json(patient, findings, held);
    } else {
      print_text(findings, held);
    }
    return held ? 0 : 1;
  });
}

}  // namespace limaquota
