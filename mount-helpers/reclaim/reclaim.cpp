// limaquota reclaim VM
#include "mount-helpers/reclaim/reclaim.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/kept_going.hpp"
#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

struct ReclaimArguments {
  std::string home, vm, loan{default_loan};
  bool offline = false, json = false;
  unsigned deadline = 600;
  ReclaimRequest request;
};

// Deleted as root in the guest: a slip of the finger must not take the system with it.
void check_path(const std::string& text) {
  const std::filesystem::path path(text);
  const auto components = std::distance(path.begin(), path.end()) - 1;  // the root is one
  static constexpr const char* system[] = {"bin",   "boot", "dev", "etc",  "lib", "lib32",
                                           "lib64", "proc", "run", "sbin", "sys"};
  // How deep a directory must lie at least, where the system has much of its own.
  std::ptrdiff_t least = 2;
  if (text.starts_with("/usr/")) least = text.starts_with("/usr/local/") ? 4 : 3;
  if (text.starts_with("/var/") || text.starts_with("/home/")) least = 3;
  const bool usr =
      text.starts_with("/usr/") && !text.starts_with("/usr/src/") && !text.starts_with("/usr/local/");
  const bool plain = path.is_absolute() && path.lexically_normal() == path && path.has_filename();
  if (!plain || usr || components < least ||
      std::find(std::begin(system), std::end(system), *std::next(path.begin())) != std::end(system)) {
    throw WrongUse(fmt::format(
        "--path {}: an absolute directory of your own, deep enough to hold nothing of the system's, such as "
        "/home/me/linux",
        escape_name(text)));
  }
}

void check_use(ReclaimArguments& arguments) {
  ReclaimRequest& request = arguments.request;
  request.clean = request.clean || !request.paths.empty();
  arguments.offline = arguments.offline || request.compress;
  if (request.clean && arguments.offline)
    throw WrongUse("--clean and --path need a running VM, --offline a stopped one");
  for (const std::string& path : request.paths) check_path(path);
  const auto loan = parse_size(arguments.loan);
  if (!loan || *loan < 1_MiB || *loan > 1024_GiB) {
    throw WrongUse(
        fmt::format("--loan {}: a size from 1MiB to 1TiB, such as 256MiB", escape_name(arguments.loan)));
  }
  request.loan = *loan;
  request.deadline = std::chrono::seconds(arguments.deadline);
}

Json as_json(const ReclaimRequest& request, const Reclaimed& result) {
  Json json{{"vm", request.vm.name},
            {"way", result.way},
            {"dry_run", request.dry_run},
            {"used_before", result.used_before.count()},
            {"used_after", result.used_after.count()}};
  if (request.dry_run) json["would_free"] = result.would_free.count();
  json["disks"] = Json::array();
  for (const DiskReclaimed& disk : result.disks) {
    json["disks"].push_back({{"name", disk.name},
                             {"format", disk.format},
                             {"allocated_before", disk.allocated_before.count()},
                             {"allocated_after", disk.allocated_after.count()},
                             {"zero_bytes", disk.zero_bytes},
                             {"free_bytes", disk.free_bytes}});
  }
  json["notes"] = result.notes;
  return json;
}

void print(const ReclaimRequest& request, const Reclaimed& result) {
  for (const DiskReclaimed& disk : result.disks) {
    fmt::print("{} ({}): allocated {}", disk.name, disk.format, format_size(disk.allocated_before));
    if (!request.dry_run) fmt::print(", now {}", format_size(disk.allocated_after));
    fmt::print("; {} of zeros, {} free in its filesystems\n", format_size(Bytes(disk.zero_bytes)),
               format_size(Bytes(disk.free_bytes)));
  }
  for (const std::string& note : result.notes) fmt::print("{}\n", note);
  const std::string name = escape_name(request.vm.name);
  if (request.dry_run) {
    fmt::print("{}: used {}; would give back {}\n", name, format_size(result.used_before),
               format_size(result.would_free));
  } else {
    fmt::print("{}: used {}, was {}; {} given back\n", name, format_size(result.used_after),
               format_size(result.used_before),
               format_size(minus_or_zero(result.used_before, result.used_after)));
  }
}

void run_reclaim(ReclaimArguments& arguments) {
  check_use(arguments);
  ReclaimRequest& request = arguments.request;
  request.home = real_path(choose_home(arguments.home));
  read_report(request.home);  // not mounted: says so
  request.vm = find_lima_vm(request.home, arguments.vm);
  const Reclaimed result = arguments.offline ? reclaim_offline(request) : reclaim_online(request);
  if (arguments.json) {
    fmt::print("{}\n", json_text(as_json(request, result), 2));
  } else {
    print(request, result);
  }
}

}  // namespace

void add_reclaim(Program& program) {
  Command command = program.command("reclaim", "Get space back from a VM's disks");
  auto arguments = std::make_shared<ReclaimArguments>();
  ReclaimRequest& request = arguments->request;
  command.text("VM", arguments->vm, "The VM").required().shown_as(" ");
  command.flag(
      "--offline", arguments->offline,
      "The VM is stopped: punch holes where its disks hold zeros, and what a cleanly unmounted ext4 calls "
      "free");
  command.flag("--compress", request.compress,
               "As --offline, then write a qcow2 anew, compressed; needs room for a second file meanwhile");
  command.flag("--clean", request.clean,
               "Before the trim: apt-get clean, rotated logs deleted, the journal made small; asks first");
  command.texts("--path", request.paths, "Also delete this directory of the guest; may be repeated")
      .shown_as("DIR")
      .one_word_each_time();
  command.flag("--yes", request.yes, "Do not ask");
  command.flag("--dry-run", request.dry_run, "Only say what would be won");
  command.text("--loan", arguments->loan, "Lent to a VM that is paused at its limit, twice at most [256MiB]")
      .shown_as("SIZE");
  command.number("--deadline", arguments->deadline, "For each program in the guest [600]")
      .shown_as("SECONDS")
      .within(1, 86400);
  command.flag("--json", arguments->json, "Figures as JSON, in bytes");
  add_home_option(command, arguments->home);
  command.footer(
      "A running VM trims its own filesystems (fstrim, by limactl shell). Paused at its limit it is lent "
      "room\n"
      "for that; the loan ends with this command, however it ends. A stopped VM is not booted, and nothing "
      "is\n"
      "copied but by --compress. Killed at any point, the disk is whole.\n"
      "Examples:\n"
      "  limaquota reclaim kernel-build\n"
      "  limaquota reclaim kernel-build --clean --path /usr/src/linux-6.12\n"
      "  limaquota reclaim kernel-build --offline --dry-run\n"
      "  limaquota reclaim kernel-build --compress");
  program.on(command, [arguments] {
    run_reclaim(*arguments);
    return 0;
  });
}

}  // namespace limaquota
