// limaquota resume [VM...] [--json] [--home DIR]
#include "mount-helpers/guest/resume.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <future>
#include <memory>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

using Reached = GuestAnswer::Reached;

struct ResumeArguments {
  std::vector<std::string> names;
  std::string home;
  bool json = false;
};

std::vector<LimaVm> wanted_vms(const std::string& home, const std::vector<std::string>& names) {
  if (names.empty()) return lima_vms(home);
  std::vector<LimaVm> vms;
  for (const std::string& name : names) {
    const bool twice = std::any_of(vms.begin(), vms.end(), [&](const LimaVm& vm) { return vm.name == name; });
    if (!twice) vms.push_back(find_lima_vm(home, name));
  }
  return vms;
}

// Where no VM is named, those that run, or do not, tell nothing.
bool is_worth_saying(const Resumption& resumption) {
  return resumption.answer.is_paused() || resumption.answer.reached == Reached::silent;
}

int run_resume(const ResumeArguments& arguments) {
  const std::string home = choose_home(arguments.home);
  const Snapshot snapshot = read_report(home).snapshot;
  std::vector<Resumption> resumptions = resume_vms(wanted_vms(home, arguments.names), snapshot);
  if (arguments.names.empty()) std::erase_if(resumptions, [](const auto& r) { return !is_worth_saying(r); });
  if (arguments.json) {
    fmt::print("{}\n", json_text(Json{{"vms", json_of(resumptions, snapshot)}}, 1));
  } else {
    for (const Resumption& resumption : resumptions) {
      fmt::print("{}: {}\n", escape_name(resumption.vm.name), text_of(resumption, snapshot));
    }
    if (resumptions.empty()) fmt::print("no VM is paused for space\n");
  }
  return std::all_of(resumptions.begin(), resumptions.end(), [](const auto& r) { return r.is_resumed(); })
             ? 0
             : 1;
}

}  // namespace

bool has_room(const AccountFigures* account) {
  return account == nullptr || account->writable >= smallest_write;
}

std::string why_no_room(const AccountFigures& account, const HostFigures& host) {
  const Bytes budget = account.disk_line.is_unlimited()
                           ? account.disk_line
                           : minus_or_zero(account.disk_line, account.used + account.reserved);
  if (budget >= smallest_write) {
    return fmt::format(
        "the host has no room: {} free, of which {} are the reserve; free space there, or lower the reserve "
        "(limaquota set _host SIZE)",
        format_size(host.free), format_size(host.reserve));
  }
  return fmt::format("its limit of {} leaves its disk nothing: raise it (limaquota set {} SIZE)",
                     format_size(account.limit), shell_quoted(account.name));
}

std::vector<Resumption> resume_vms(const std::vector<LimaVm>& vms, const Snapshot& snapshot,
                                   std::chrono::milliseconds deadline) {
  std::vector<std::future<GuestAnswer>> answers;
  std::vector<Resumption> resumptions;
  for (const LimaVm& vm : vms) {
    const GuestMay may = has_room(find_account(snapshot, vm.name)) ? GuestMay::go_on : GuestMay::only_answer;
    answers.push_back(std::async(std::launch::async, ask_guest, vm.qmp_socket(), may, deadline));
    resumptions.push_back({vm, {}});
  }
  for (size_t i = 0; i < vms.size(); ++i) resumptions[i].answer = answers[i].get();
  return resumptions;
}

std::string text_of(const Resumption& resumption, const Snapshot& snapshot) {
  const GuestAnswer& answer = resumption.answer;
  if (resumption.is_resumed()) return "resumed";
  if (answer.paused_again) return "went on, and was paused for space again at once: give it more room";
  if (answer.reached == Reached::nobody) return "not resumed: it is not running";
  if (answer.reached == Reached::silent) return "not resumed: " + answer.why;
  if (answer.state != GuestState::no_space) {
    return fmt::format("not resumed: it is {}, not paused for space", to_string(answer.state));
  }
  const AccountFigures* account = find_account(snapshot, resumption.vm.name);
  return "not resumed: " + (account == nullptr ? "no room" : why_no_room(*account, snapshot.host));
}

Json json_of(const std::vector<Resumption>& resumptions, const Snapshot& snapshot) {
  Json vms = Json::array();
  for (const Resumption& resumption : resumptions) {
    const GuestAnswer& answer = resumption.answer;
    const std::string_view found = answer.reached == Reached::yes      ? to_string(answer.state)
                                   : answer.reached == Reached::nobody ? "not running"
                                                                       : "no answer";
    vms.push_back({{"name", escape_name(resumption.vm.name)},
                   {"found", found},
                   {"resumed", resumption.is_resumed()},
                   {"text", text_of(resumption, snapshot)}});
  }
  return vms;
}

void add_resume(Program& program) {
  Command command = program.command("resume", "Let VMs go on that were paused for space");
  auto arguments = std::make_shared<ResumeArguments>();
  command.texts("VM", arguments->names, "These; else all that are paused for space").shown_as("NAME...");
  command.flag("--json", arguments->json, "As JSON: what each was found to be, and whether it was resumed");
  add_home_option(command, arguments->home);
  command.footer(
      "A VM is paused for space when a write to its disk did not fit; when it goes on it tries that write "
      "again. Give it room first: raise its limit, or free space. One that is paused for another reason is "
      "left alone.\n"
      "Exit status: 0 all that were asked for go on, or none was paused; 1 one does not, and why is said.\n"
      "Examples:\n"
      "  limaquota resume\n"
      "  limaquota set kernel-build 20GiB     sets the limit, and resumes by itself\n"
      "  limaquota resume kernel-build --json");
  program.on(command, [arguments] { return run_resume(*arguments); });
}

}  // namespace limaquota
