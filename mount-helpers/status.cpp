// limaquota status [VM] [--json] [--home DIR]
#include <fmt/format.h>

#include <memory>
#include <string>

#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/home.hpp"
#include "mount-helpers/status_table.hpp"
#include "mount-helpers/survey.hpp"

namespace limaquota {
namespace {

struct StatusArguments {
  std::string account;
  std::string home;
  bool json = false;
};

// The account's own object; the snapshot was made of the same list, in its order.
const nlohmann::ordered_json& account_json(const Report& report, const AccountFigures& account) {
  return report.json.at("accounts").at(static_cast<size_t>(&account - report.snapshot.accounts.data()));
}

void run_status(const StatusArguments& arguments) {
  bool mounted = false;
  const Report report = read_report_or_survey(choose_home(arguments.home), mounted);
  const AccountFigures* account = find_account(report.snapshot, arguments.account);
  if (!arguments.account.empty() && account == nullptr) {
    throw Refusal(fmt::format("no VM '{}'; there are: {}", escape_name(arguments.account),
                              names_of(report.snapshot, is_vm)));
  }
  if (arguments.json) {
    fmt::print("{}\n", account == nullptr ? report.json.dump() : account_json(report, *account).dump());
  } else if (account != nullptr) {
    fmt::print("{}", account_status(*account, style_of_output()));
  } else {
    fmt::print("{}", status_table(report.snapshot, style_of_output()));
  }
}

}  // namespace

void add_status(CLI::App& program, int&) {
  CLI::App* command = program.add_subcommand("status", "What each VM occupies, and how near its limit it is");
  auto arguments = std::make_shared<StatusArguments>();
  command->add_option("VM", arguments->account, "One VM, or an account such as _disks/NAME; else all of them")
      ->option_text("NAME");
  command->add_flag("--json", arguments->json, "As JSON, in bytes; null means max");
  add_home_option(*command, arguments->home);
  command->footer(
      "Examples:\n"
      "  limaquota status\n"
      "  limaquota status kernel-build\n"
      "  limaquota status kernel-build --json | jq .used\n"
      "  cat ~/.lima/.usage/kernel-build            the same figures, without this command");
  command->callback([arguments] { run_status(*arguments); });
}

}  // namespace limaquota
