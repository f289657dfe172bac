// limaquota set NAME SIZE|max [--strict], limaquota set --all virtual [--strict]
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/resume.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/home/limit_file.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::milliseconds resume_deadline{3000};
const std::string disk_prefix = std::string(disks_directory) + "/";

struct SetArguments {
  std::string name;
  std::string size;
  std::string all;
  std::string home;
  bool strict = false;
  bool json = false;
};

Bytes parse_limit(const std::string& text, bool may_be_unlimited) {
  const bool is_max = text.size() == 3 && std::equal(text.begin(), text.end(), "max", [](char a, char b) {
                        return std::tolower(static_cast<unsigned char>(a)) == b;
                      });
  if (is_max && may_be_unlimited) return Bytes::unlimited();
  if (const std::optional<Bytes> size = parse_size(text)) return *size;
  throw WrongUse(fmt::format("'{}' is no size; write 15GiB, 1.5T or 500M (binary units){}", escape_name(text),
                             may_be_unlimited ? ", or max for no limit" : ""));
}

void warn_if_outside(const AccountFigures& account) {
  if (account.state != AccountState::outside) return;
  warn(fmt::format(
      "warning: {} or a disk of it leads out of the home: its limit is not held (limaquota doctor)",
      escape_name(account.name)));
}

void warn_if_below(const AccountFigures& account, Bytes limit) {
  if (limit >= account.used) return;
  warn(fmt::format(
      "warning: {0} occupies {1}, more than its new limit: it may overwrite and free, but gets no new "
      "blocks until it is below {2}",
      escape_name(account.name), format_size(account.used), format_size(limit)));
}

Bytes without_loan(const AccountFigures& account) {
  return account.limit.is_unlimited() ? account.limit
                                      : minus_or_zero(account.limit, account.loan.value_or(Bytes(0)));
}

// The setters give what was done, for people.
std::string set_account(const std::string& home, const AccountFigures& account, Bytes limit) {
  write_limit(home, account.name, limit);
  warn_if_outside(account);
  warn_if_below(account, limit);
  return fmt::format("{}: limit {} (was {}), used {}\n", escape_name(account.name), format_size(limit),
                     format_size(without_loan(account)), format_size(account.used));
}

// The VM to which the disk is attached, or nothing.
const AccountFigures* attached_to(const Snapshot& snapshot, const std::string& disk) {
  for (const AccountFigures& account : snapshot.accounts) {
    for (const DiskFigures& file : account.disks) {
      if (file.name.starts_with(disk + "/") && account.name != disk) return &account;
    }
  }
  return nullptr;
}

// Throws Refusal where there is nothing of that name.
void require_known(const Snapshot& snapshot, const std::string& name) {
  const bool disk = name.starts_with(disk_prefix);
  const bool known = name == host_name || name == default_name || find_account(snapshot, name) != nullptr ||
                     (disk && attached_to(snapshot, name) != nullptr);
  if (known) return;
  throw Refusal(fmt::format("no {} '{}'; there are: {}", disk ? "disk" : "VM", escape_name(name),
                            names_of(snapshot, disk ? is_disk : is_vm)));
}

std::string set_one(const std::string& home, const Snapshot& snapshot, const SetArguments& arguments) {
  const std::string& name = arguments.name;
  const Bytes limit = parse_limit(arguments.size, name != host_name);
  const AccountFigures* account = find_account(snapshot, name);
  const AccountFigures* vm = name.starts_with(disk_prefix) ? attached_to(snapshot, name) : nullptr;
  if (account != nullptr && vm == nullptr) return set_account(home, *account, limit);
  write_limit(home, name, limit);
  if (name == host_name) {
    return fmt::format("host reserve {} (was {}), free {}\n", format_size(limit),
                       format_size(snapshot.host.reserve), format_size(snapshot.host.free));
  }
  if (vm == nullptr) return fmt::format("VMs without a limit of their own: limit {}\n", format_size(limit));
  return fmt::format("{}: limit {} when it is detached; now it is attached to {} and counts there\n",
                     escape_name(name), format_size(limit), escape_name(vm->name));
}

// Why --all virtual leaves an account alone; nothing where it does not.
std::optional<std::string_view> why_left_alone(const AccountFigures& account) {
  if (account.state == AccountState::outside) return "it leads out of the home";
  if (account.virtual_size.count() == 0) return "it has no disk yet";
  return std::nullopt;
}

std::string set_all_to_virtual(const std::string& home, const Snapshot& snapshot) {
  std::string text;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_vm(account)) continue;
    if (const auto why = why_left_alone(account)) {
      text += fmt::format("{}: left alone, {}\n", escape_name(account.name), *why);
    } else {
      text += set_account(home, account, account.virtual_size);
    }
  }
  return text;
}

// Whether the account's limit is set.
bool is_meant(const AccountFigures& account, const SetArguments& arguments) {
  if (!arguments.all.empty()) return is_vm(account) && !why_left_alone(account);
  return arguments.name == account.name ||
         (arguments.name == default_name && is_vm(account) && !account.has_limit_file);
}

// The account's limit, loan aside, as it will be.
Bytes limit_after(const AccountFigures& account, const SetArguments& arguments) {
  if (!is_meant(account, arguments)) return without_loan(account);
  return arguments.all.empty() ? parse_limit(arguments.size, true) : account.virtual_size;
}

// The host's figures as they will be.
HostFigures host_after(const Snapshot& snapshot, const SetArguments& arguments) {
  HostFigures host = snapshot.host;
  if (arguments.name == host_name) host.reserve = parse_limit(arguments.size, false);
  const auto growth = [](const AccountFigures& account, Bytes limit) {
    return minus_or_zero(std::min(limit, account.virtual_size), account.used);
  };
  for (const AccountFigures& account : snapshot.accounts) {
    const Bytes limit = plus_or_unlimited(limit_after(account, arguments), account.loan.value_or(Bytes(0)));
    // A disk that is attached is part of its VM's growth.
    if (limit == account.limit || (is_disk(account) && attached_to(snapshot, account.name))) continue;
    const Bytes others = minus_or_zero(host.worst_case, growth(account, account.limit));
    host.worst_case = plus_or_unlimited(others, growth(account, limit));
  }
  host.overcommit = minus_or_zero(host.worst_case, minus_or_zero(host.free, host.reserve));
  return host;
}

// Warns where the limits could exceed what the host can give; where they must not, throws Refusal, unless the
// change makes that no worse.
void check_overcommit(const Snapshot& snapshot, const SetArguments& arguments) {
  const HostFigures host = host_after(snapshot, arguments);
  if (host.overcommit.count() == 0) return;
  const std::string text = fmt::format(
      "all limits together let the VMs grow by {}, {} more than the host can give ({} free, {} of it the "
      "reserve)",
      format_size(host.worst_case), format_size(host.overcommit), format_size(host.free),
      format_size(host.reserve));
  // A change that makes it less, though not none, is on the way there.
  if (arguments.strict && host.overcommit > snapshot.host.overcommit) {
    throw Refusal(text + "; nothing was changed: free space or lower other limits, or leave --strict out");
  }
  warn(fmt::format("warning: {}: it may be full before the limits are met", text));
}

// The VMs whose room the change may have made larger go on, where they were paused for space. What became of
// those that were, or may have been. That a QEMU does not answer is no failure of this command.
std::vector<Resumption> resume_after(const std::string& home, const Snapshot& snapshot,
                                     const SetArguments& arguments) {
  std::vector<LimaVm> vms = lima_vms(home);
  const bool all = !arguments.all.empty() || arguments.name == default_name || arguments.name == host_name;
  if (!all) std::erase_if(vms, [&](const LimaVm& vm) { return vm.name != arguments.name; });
  std::vector<Resumption> resumptions = resume_vms(vms, snapshot, resume_deadline);
  std::erase_if(resumptions, [&](const Resumption& resumption) {
    const AccountFigures* account = find_account(snapshot, resumption.vm.name);
    const bool refused = account != nullptr && account->refused_writes > 0;
    const bool silent = resumption.answer.reached == GuestAnswer::Reached::silent;
    return !resumption.answer.is_paused() && !(silent && refused);
  });
  return resumptions;
}

void print_json(const Report& report, const SetArguments& arguments,
                const std::vector<Resumption>& resumptions) {
  const Json all = parse_json(report.json);
  Json json{{"host", all.at("host")}, {"accounts", Json::array()}};
  for (size_t i = 0; i < report.snapshot.accounts.size(); ++i) {
    if (is_meant(report.snapshot.accounts[i], arguments))
      json["accounts"].push_back(all.at("accounts").at(i));
  }
  json["vms"] = json_of(resumptions, report.snapshot);
  fmt::print("{}\n", json_text(json, 1));
}

void run_set(const SetArguments& arguments) {
  const bool one = !arguments.name.empty() && !arguments.size.empty();
  if (one == !arguments.all.empty() || (!one && !arguments.name.empty())) {
    throw WrongUse("say either a NAME and a SIZE, or --all virtual");
  }
  if (one)
    parse_limit(arguments.size, arguments.name != host_name);  // wrong use shows before anything is read
  const std::string home = choose_home(arguments.home);
  const Report report = read_report(home);
  if (one) require_known(report.snapshot, arguments.name);
  check_overcommit(report.snapshot, arguments);
  const std::string text =
      one ? set_one(home, report.snapshot, arguments) : set_all_to_virtual(home, report.snapshot);
  if (!arguments.json) fmt::print("{}", text);
  std::fflush(stdout);
  const Report after = read_report(home);
  const std::vector<Resumption> resumptions = resume_after(home, after.snapshot, arguments);
  if (arguments.json) return print_json(after, arguments, resumptions);
  for (const Resumption& resumption : resumptions) {
    const bool silent = resumption.answer.reached == GuestAnswer::Reached::silent;
    fmt::print(resumption.is_resumed() ? stdout : stderr, "{}: {}{}\n", escape_name(resumption.vm.name),
               silent ? "it may be paused for space; " : "", text_of(resumption, after.snapshot));
  }
}

}  // namespace

void add_set(Program& program) {
  Command command = program.command("set", "Set the limit of a VM, a disk, the default, the host reserve");
  auto arguments = std::make_shared<SetArguments>();
  command
      .text("NAME", arguments->name,
            "A VM; _default (VMs without a limit of their own); _disks/NAME (a detached disk); _shared "
            "(everything else); _host (the space that stays free)")
      .shown_as(" ");
  command.text("SIZE", arguments->size, "Such as 15GiB, 500M, 1.5T, always binary; max: no limit")
      .shown_as("or max");
  command.text("--all", arguments->all, "Each VM's limit becomes the virtual size of its disks")
      .shown_as("virtual")
      .one_of({"virtual"});
  command.flag("--strict", arguments->strict,
               "Change nothing where all limits together could exceed what the host can give and the change "
               "adds to that; else it is a warning");
  command.flag("--json", arguments->json,
               "As JSON: the host's figures and those of what was set, as status has them, and the VMs that "
               "were paused, as resume has them");
  add_home_option(command, arguments->home);
  command.footer(
      "The limit is in force when the command returns, and stays. A limit below what is used is accepted: "
      "the VM may then only overwrite and free. A VM that was paused for space and now has room goes on.\n"
      "Examples:\n"
      "  limaquota set kernel-build 15GiB\n"
      "  limaquota set kernel-build 15GiB --strict\n"
      "  limaquota set kernel-build max\n"
      "  limaquota set _default 20GiB\n"
      "  limaquota set _host 5GiB\n"
      "  limaquota set --all virtual\n"
      "  echo 15GiB > ~/.lima/.quota/kernel-build   the same, without this command");
  program.on(command, [arguments] {
    run_set(*arguments);
    return 0;
  });
}

}  // namespace limaquota
