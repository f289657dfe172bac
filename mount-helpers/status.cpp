// limaquota status [VM] [--watch] [--json] [--home DIR]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "accounting/size_text.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/home.hpp"
#include "mount-helpers/lima_vms.hpp"
#include "mount-helpers/process.hpp"
#include "mount-helpers/status_savings.hpp"
#include "mount-helpers/status_table.hpp"
#include "mount-helpers/survey.hpp"
#include "mount-helpers/terminal.hpp"

namespace limaquota {
namespace {

using Json = nlohmann::ordered_json;
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
  const AccountFigures* account = nullptr;  // in `report`
};

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
  return seen;
}

const Freeable* freeable(const Seen& seen) {
  for (const Freeable& item : seen.savings.freeable) {
    if (item.name == seen.account->name) return &item;
  }
  return nullptr;
}

// Only of a running VM, where limactl is there. Takes as long as the guest does.
std::optional<Inside> inside(const Seen& seen, std::string* why) {
  if (!is_vm(*seen.account) || seen.account->state == AccountState::outside) return std::nullopt;
  const auto vms = lima_vms(seen.home);
  const bool runs = std::any_of(vms.begin(), vms.end(), [&](const LimaVm& vm) {
    return vm.name == seen.account->name && vm.is_running();
  });
  if (!runs || !find_program("limactl")) return std::nullopt;
  return look_inside(seen.home, *seen.account, why);
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

std::string json_text(const Seen& seen, const std::optional<Inside>& guest) {
  Json json = seen.report.json;
  if (seen.account != nullptr) {
    // The snapshot was made of the same list, in its order.
    json = json.at("accounts").at(static_cast<size_t>(seen.account - seen.report.snapshot.accounts.data()));
    const Freeable* item = freeable(seen);
    json["mounted"] = seen.mounted;
    json["freeable"] = item == nullptr ? Json(nullptr) : Json(to_string(item->kind));
    if (guest) json["inside"] = {{"used", guest->used.count()}, {"reclaimable", guest->reclaimable.count()}};
  } else {
    json["home"] = seen.home;
    json["mounted"] = seen.mounted;
    json["notes"] = seen.report.notes;
    json.update(to_json(seen.savings));
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string account_text(const Seen& seen, const std::optional<Inside>& guest, const std::string& why) {
  std::string text = account_status(*seen.account, style_of_output());
  if (const Freeable* item = freeable(seen)) {
    text += fmt::format("{}: deleting it gives back {}\n", to_string(item->kind), format_size(item->bytes));
  }
  if (guest) {
    text += fmt::format("the guest says it uses {}; about {} are reclaimable inside (limaquota reclaim {})\n",
                        format_size(guest->used), format_size(guest->reclaimable),
                        escape_name(seen.account->name));
  } else if (!why.empty()) {
    text += fmt::format("what the guest uses is not known: {}\n", printable(why));
  }
  return text;
}

std::string text_of(const Seen& seen, const std::optional<Inside>& guest, const std::string& why) {
  std::string text;
  if (!seen.mounted) {
    text = fmt::format(
        "{0} is not mounted: figures by du, and nothing holds the limits (limaquota mount {0})\n\n",
        seen.home);
  }
  if (seen.account != nullptr) {
    text += account_text(seen, guest, why);
  } else {
    text += status_table(seen.report.snapshot, style_of_output()) + savings_text(seen.savings);
  }
  for (const std::string& note : seen.report.notes) text += "Note: " + note + "\n";
  return text;
}

std::string status_text(const StatusArguments& arguments) {
  const std::unique_ptr<Seen> seen = look(arguments);
  std::string why;
  std::optional<Inside> guest;
  if (seen->account != nullptr && !arguments.watch) guest = inside(*seen, &why);
  return arguments.json ? json_text(*seen, guest) : text_of(*seen, guest, why);
}

}  // namespace

void add_status(CLI::App& program, int&) {
  CLI::App* command = program.add_subcommand("status", "What each VM occupies, and how near its limit it is");
  auto arguments = std::make_shared<StatusArguments>();
  command->add_option("VM", arguments->account, "One VM, or an account such as _disks/NAME; else all of them")
      ->option_text("NAME");
  command->add_flag("--watch", arguments->watch, "Show it again every 2 seconds, in place, until Ctrl-C");
  command->add_flag("--json", arguments->json, "As JSON, in bytes; null means max");
  add_home_option(*command, arguments->home);
  command->footer(
      "Nearest its limit first; then what could be freed: stopped and temporary VMs, detached disks; and "
      "limit "
      "files whose VM is gone. Of one running VM it also shows what the guest says it uses, where limactl "
      "can "
      "ask it. Where nothing is mounted the figures are du's.\n"
      "Examples:\n"
      "  limaquota status\n"
      "  limaquota status --watch\n"
      "  limaquota status kernel-build\n"
      "  limaquota status kernel-build --json | jq .used\n"
      "  cat ~/.lima/.usage/kernel-build            the same figures, without this command");
  command->callback([arguments] {
    if (arguments->watch) {
      show_repeatedly([&] { return status_text(*arguments); }, watch_period);
    } else {
      fmt::print("{}", status_text(*arguments));
    }
  });
}

}  // namespace limaquota
