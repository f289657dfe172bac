// limaquota status [VM] [--watch] [--json] [--home DIR]
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/accounts/savings.hpp"
#include "mount-helpers/accounts/status_table.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/inside.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/home/survey.hpp"
#include "mount-helpers/programs/process.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::seconds watch_period{2};

struct StatusArguments {
  std::string account;
  std::string home;
  bool json = false;
  bool watch = false;
};

// One moment of the home, and the account that was asked for; null: all of them.
struct Seen {
  std::string home;
  bool mounted = false;
  Report report;
  Savings savings;
  Insides insides;
  std::string why_silent;                   // the guest that was asked for
  const AccountFigures* account = nullptr;  // in `report`
};

// Of one VM that is asked for, in its own time; else of all that run.
void ask_guests(Seen& seen) {
  if (seen.account == nullptr) {
    seen.insides = look_inside_all(seen.home, seen.report.snapshot);
    return;
  }
  if (!is_vm(*seen.account) || seen.account->state == AccountState::outside) return;
  const auto vms = running_vms(seen.home);
  const bool runs =
      std::any_of(vms.begin(), vms.end(), [&](const LimaVm& vm) { return vm.name == seen.account->name; });
  if (!runs || !find_program("limactl")) return;
  InsideAnswer answer = look_inside(seen.home, *seen.account);
  seen.insides[seen.account->name] = answer.inside;
  seen.why_silent = std::move(answer.why);
}

const Inside* inside(const Seen& seen, const AccountFigures& account) {
  const auto found = seen.insides.find(account.name);
  return found == seen.insides.end() || !found->second ? nullptr : &*found->second;
}

std::unique_ptr<Seen> look(const StatusArguments& arguments) {
  auto seen = std::make_unique<Seen>();
  seen->home = choose_home(arguments.home);
  seen->report = read_report_or_survey(seen->home, seen->mounted);
  const Snapshot& snapshot = seen->report.snapshot;
  seen->account = find_account(snapshot, arguments.account);
  if (!arguments.account.empty() && seen->account == nullptr) {
    throw Refusal(
        fmt::format("no VM '{}'; there are: {}", escape_name(arguments.account), names_of(snapshot, is_vm)));
  }
  seen->savings = find_savings(seen->home, snapshot);
  // A guest would be logged into every other second.
  if (!arguments.watch) ask_guests(*seen);
  return seen;
}

const Freeable* freeable(const Seen& seen) {
  for (const Freeable& item : seen.savings.freeable) {
    if (item.name == seen.account->name) return &item;
  }
  return nullptr;
}

Json to_json(const Savings& savings) {
  Json json = {{"freeable", Json::array()}, {"limits_without_vm", Json::array()}};
  for (const Freeable& item : savings.freeable) {
    json["freeable"].push_back({{"name", item.name},
                                {"kind", to_string(item.kind)},
                                {"running", item.running},
                                {"bytes", item.bytes.count()}});
  }
  for (const UnusedLimit& limit : savings.unused_limits) {
    const bool known = limit.limit && !limit.limit->is_unlimited();
    json["limits_without_vm"].push_back({{"name", limit.name},
                                         {"limit", known ? Json(limit.limit->count()) : Json(nullptr)},
                                         {"damaged", !limit.limit.has_value()}});
  }
  return json;
}

std::string json_of(const Seen& seen) {
  Json json = parse_json(seen.report.json);
  // The snapshot was made of the same list, in its order.
  const std::vector<AccountFigures>& accounts = seen.report.snapshot.accounts;
  for (size_t i = 0; i < accounts.size(); ++i) {
    const Inside* guest = inside(seen, accounts[i]);
    if (!is_vm(accounts[i])) continue;
    Json& said = json.at("accounts").at(i)["inside"];
    if (guest) said = {{"used", guest->used.count()}, {"reclaimable", guest->reclaimable.count()}};
  }
  if (seen.account != nullptr) {
    json = Json(json.at("accounts").at(static_cast<size_t>(seen.account - accounts.data())));
    const Freeable* item = freeable(seen);
    json["mounted"] = seen.mounted;
    json["freeable"] = item == nullptr ? Json(nullptr) : Json(to_string(item->kind));
  } else {
    json["home"] = seen.home;
    json["mounted"] = seen.mounted;
    json["notes"] = seen.report.notes;
    json.update(to_json(seen.savings));
  }
  return json_text(json) + "\n";
}

std::string account_text(const Seen& seen) {
  std::string text = account_status(*seen.account, style_of_output());
  if (const Freeable* item = freeable(seen)) {
    text += fmt::format("{}: deleting it gives back {}\n", to_string(item->kind), format_size(item->bytes));
  }
  if (const Inside* guest = inside(seen, *seen.account)) {
    text += fmt::format("the guest says it uses {}; about {} are reclaimable inside (limaquota reclaim {})\n",
                        format_size(guest->used), format_size(guest->reclaimable),
                        shell_quoted(seen.account->name));
  } else if (!seen.why_silent.empty()) {
    text += fmt::format("what the guest uses is not known: {}\n", printable(seen.why_silent));
  }
  return text;
}

std::string text_of(const Seen& seen) {
  std::string text;
  if (!seen.mounted) {
    text =
        fmt::format("{} is not mounted: figures by du, and nothing holds the limits (limaquota mount {})\n\n",
                    escape_words(seen.home), shell_quoted(seen.home));
  }
  if (seen.account != nullptr) {
    text += account_text(seen);
  } else {
    text += status_table(seen.report.snapshot, seen.insides, style_of_output()) +
            savings_text(seen.savings, seen.insides);
  }
  for (const std::string& note : seen.report.notes) text += "Note: " + note + "\n";
  return text;
}

std::string status_text(const StatusArguments& arguments) {
  const std::unique_ptr<Seen> seen = look(arguments);
  return arguments.json ? json_of(*seen) : text_of(*seen);
}

}  // namespace

void add_status(Program& program) {
  Command command = program.command("status", "What each VM occupies, and how near its limit it is");
  auto arguments = std::make_shared<StatusArguments>();
  command.text("VM", arguments->account, "One VM, or an account such as _disks/NAME; else all of them")
      .shown_as("NAME");
  command.flag("--watch", arguments->watch, "Show it again every 2 seconds, in place, until Ctrl-C");
  command.flag("--json", arguments->json, "As JSON, in bytes; null means max");
  add_home_option(command, arguments->home);
  command.footer(
      "Nearest its limit first; then what could be freed: stopped and temporary VMs, detached disks; and "
      "limit "
      "files whose VM is gone. What is reclaimable inside is what a VM's disks occupy beyond what its guest "
      "says it uses: those that run are asked by limactl, at the same time, for 2.5 s (one VM: 5 s), not "
      "with "
      "--watch; - where one does not answer. Where nothing is mounted the figures are du's.\n"
      "Examples:\n"
      "  limaquota status\n"
      "  limaquota status --watch\n"
      "  limaquota status kernel-build\n"
      "  limaquota status kernel-build --json | jq .used\n"
      "  cat ~/.lima/.usage/kernel-build            the same figures, without this command");
  program.on(command, [arguments] {
    if (arguments->watch) {
      show_repeatedly([&] { return status_text(*arguments); }, watch_period);
    } else {
      fmt::print("{}", status_text(*arguments));
    }
    return 0;
  });
}

}  // namespace limaquota
