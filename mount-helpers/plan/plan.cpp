// limaquota plan [TEMPLATE...] [--free SIZE] [--strict] [--json] [--home DIR]
#include "mount-helpers/plan/plan.hpp"

#include <fmt/core.h>

#include <memory>
#include <optional>

#include "accounting/escape.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

struct PlanArguments {
  std::vector<std::string> templates;
  std::string free;
  bool free_given = false;
  std::string home;
  bool strict = false;
  bool json = false;
};

bool is_yes(const Plan& plan, bool strict) {
  return plan.fits() && (!strict || plan.answer.overcommitted.count() == 0);
}

// For whoever got a no: the shipped templates that would get a yes.
std::string alternatives(const std::string& home, const HostView& host, bool strict) {
  std::string text;
  for (const Plan& plan : shipped_plans(home, host)) {
    if (is_yes(plan, strict)) text += fmt::format("  {}: {}\n", names_of(plan), verdict(plan));
  }
  return text.empty() ? "None of the templates that ship with limaquota fits either\n"
                      : "Of the templates that ship with limaquota, these fit:\n" + text;
}

int plan_given(const std::string& home, const HostView& host, const PlanArguments& arguments) {
  std::vector<Candidate> candidates;
  for (const std::string& name : arguments.templates) candidates.push_back(read_candidate(home, name));
  const Plan plan = make_plan(std::move(candidates), host);
  const bool yes = is_yes(plan, arguments.strict);
  if (arguments.json) {
    fmt::print("{}\n", plan_json(plan));
    return yes ? 0 : 1;
  }
  fmt::print("{}", plan_text(plan));
  if (!yes && plan.fits()) fmt::print("No, by --strict: the worst case does not fit\n");
  if (!yes) fmt::print("{}", alternatives(home, host, arguments.strict));
  return yes ? 0 : 1;
}

int plan_shipped(const std::string& home, const HostView& host, const PlanArguments& arguments) {
  const std::vector<Plan> plans = shipped_plans(home, host);
  if (plans.empty()) throw WrongUse("name a template: none is installed with limaquota");
  bool any = false;
  std::string json;
  for (const Plan& plan : plans) {
    any = any || is_yes(plan, arguments.strict);
    json += (json.empty() ? "" : ",") + plan_json(plan);
  }
  if (arguments.json) {
    fmt::print("[{}]\n", json);
  } else {
    fmt::print("{} free, {} of it the host reserve; existing VMs may still grow by {}\n\n{}",
               format_size(host.room.free), format_size(host.room.reserve), format_size(host.room.growth),
               plans_table(plans));
  }
  return any ? 0 : 1;
}

int run_plan(const PlanArguments& arguments) {
  std::optional<Bytes> free;
  if (arguments.free_given) {
    free = parse_size(arguments.free);
    if (!free) {
      throw WrongUse(fmt::format("--free: '{}' is no size; write 20GB, 1.5TiB or 500M (binary units)",
                                 escape_name(arguments.free)));
    }
  }
  const std::string home = choose_home(arguments.home);
  const HostView host = look_at_host(home, free);
  return arguments.templates.empty() ? plan_shipped(home, host, arguments)
                                     : plan_given(home, host, arguments);
}

}  // namespace

void add_plan(Program& program) {
  Command command = program.command("plan", "Whether VMs that are not made yet fit on this host");
  auto arguments = std::make_shared<PlanArguments>();
  command
      .texts("TEMPLATE", arguments->templates,
             "Lima templates: files, or names of those that ship with limaquota; none: which of these fit")
      .shown_as("...");
  const Option free =
      command.text("--free", arguments->free, "Plan for a host with so much free space, rather than for this")
          .shown_as("SIZE");
  command.flag("--strict", arguments->strict, "Also the worst case has to fit: overcommitted is a no");
  command.flag("--json", arguments->json, "As JSON, in bytes; null means without a bound");
  add_home_option(command, arguments->home);
  command.footer(
      "The peaks of the new VMs, images not downloaded yet and the host reserve have to fit into free "
      "space.\n"
      "A template's peak stands in TEMPLATE.profile.yaml beside it; without one it is the virtual size.\n"
      "Exit status: 0 it fits, 1 it does not.\n"
      "Examples:\n"
      "  limaquota plan zfs-test-minimal zfs-kernel-build\n"
      "  limaquota plan zfs-test-minimal zfs-kernel-build --free 20GB\n"
      "  limaquota plan my-template.yaml --strict\n"
      "  limaquota plan --free 10GB                 which of the shipped templates fit");
  program.on(command, [free, arguments] {
    arguments->free_given = free.given();  // an empty text is given, and is no size
    return run_plan(*arguments);
  });
}

}  // namespace limaquota
