// limaquota set NAME SIZE|max, limaquota set --all virtual
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <optional>
#include <string>

#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/home.hpp"
#include "mount-helpers/quota.hpp"

namespace limaquota {
namespace {

constexpr std::string_view default_name = "_default";
constexpr std::string_view host_name = "_host";
const std::string disk_prefix = std::string(disks_directory) + "/";

struct SetArguments {
  std::string name;
  std::string size;
  std::string all;
  std::string home;
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

void warn_if_below(const AccountFigures& account, Bytes limit) {
  if (limit >= account.used) return;
  fmt::print(stderr,
             "warning: {0} occupies {1}, more than its new limit: it may overwrite and free, but gets no new "
             "blocks until it is below {2}\n",
             escape_name(account.name), format_size(account.used), format_size(limit));
}

void set_account(const std::string& home, const AccountFigures& account, Bytes limit) {
  write_limit(home, account.name, limit);
  fmt::print("{}: limit {} (was {}), used {}\n", escape_name(account.name), format_size(limit),
             format_size(account.limit), format_size(account.used));
  warn_if_below(account, limit);
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

void set_one(const std::string& home, const Snapshot& snapshot, const SetArguments& arguments) {
  const std::string& name = arguments.name;
  const Bytes limit = parse_limit(arguments.size, name != host_name);
  if (name == host_name) {
    write_limit(home, name, limit);
    fmt::print("host reserve {} (was {}), free {}\n", format_size(limit), format_size(snapshot.host.reserve),
               format_size(snapshot.host.free));
  } else if (name == default_name) {
    write_limit(home, name, limit);
    fmt::print("VMs without a limit of their own: limit {}\n", format_size(limit));
  } else if (const AccountFigures* account = find_account(snapshot, name)) {
    set_account(home, *account, limit);
  } else if (const AccountFigures* vm =
                 name.starts_with(disk_prefix) ? attached_to(snapshot, name) : nullptr) {
    write_limit(home, name, limit);
    fmt::print("{}: limit {} when it is detached; now it is attached to {} and counts there\n",
               escape_name(name), format_size(limit), escape_name(vm->name));
  } else {
    const bool disk = name.starts_with(disk_prefix);
    throw Refusal(fmt::format("no {} '{}'; there are: {}", disk ? "disk" : "VM", escape_name(name),
                              names_of(snapshot, disk ? is_disk : is_vm)));
  }
}

void set_all_to_virtual(const std::string& home, const Snapshot& snapshot) {
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_vm(account)) continue;
    if (account.state == AccountState::outside || account.virtual_size.count() == 0) {
      fmt::print("{}: left alone, {}\n", escape_name(account.name),
                 account.state == AccountState::outside ? "it leads out of the home" : "it has no disk yet");
      continue;
    }
    set_account(home, account, account.virtual_size);
  }
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
  if (one) {
    set_one(home, report.snapshot, arguments);
  } else {
    set_all_to_virtual(home, report.snapshot);
  }
}

}  // namespace

void add_set(CLI::App& program, int&) {
  CLI::App* command =
      program.add_subcommand("set", "Set the limit of a VM, a disk, the default, the host reserve");
  auto arguments = std::make_shared<SetArguments>();
  command
      ->add_option(
          "NAME", arguments->name,
          "A VM; _default (VMs without a limit of their own); _disks/NAME (a detached disk); _shared "
          "(everything else); _host (the space that stays free)")
      ->option_text(" ");
  command->add_option("SIZE", arguments->size, "Such as 15GiB, 500M, 1.5T, always binary; max: no limit")
      ->option_text("or max");
  command->add_option("--all", arguments->all, "Each VM's limit becomes the virtual size of its disks")
      ->option_text("virtual")
      ->check(CLI::IsMember({"virtual"}));
  command->add_option("--home", arguments->home, "The Lima home; else $LIMA_HOME, else ~/.lima")
      ->option_text("DIR");
  command->footer(
      "The limit is in force when the command returns, and stays. A limit below what is used is accepted: "
      "the VM "
      "may then only overwrite and free.\n"
      "Examples:\n"
      "  limaquota set kernel-build 15GiB\n"
      "  limaquota set kernel-build max\n"
      "  limaquota set _default 20GiB\n"
      "  limaquota set _host 5GiB\n"
      "  limaquota set --all virtual\n"
      "  echo 15GiB > ~/.lima/.quota/kernel-build   the same, without this command");
  command->callback([arguments] { run_set(*arguments); });
}

}  // namespace limaquota
