// limaquota stop VM [--lend SIZE] [--home DIR]
#include <fmt/core.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/loan.hpp"
#include "mount-helpers/guest/resume.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/end_signals.hpp"
#include "mount-helpers/programs/guard.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds loan_duration{600};  // Lima gives a guest three minutes
constexpr std::chrono::milliseconds between_looks{1000};
constexpr std::chrono::milliseconds quick{1000};
constexpr unsigned most_loans = 2;

struct StopArguments {
  std::string name;
  std::string lend = "256MiB";
  std::string home;
};

// Never fails: that nobody reads it any more ends neither a stop nor a loan early.
void say(std::FILE* to, const std::string& line) {
  std::fputs(line.c_str(), to);
  std::fflush(to);
}

// Keeps a guest going while it shuts down: lends it room where it is paused for space, and lets it go on.
class Keeper {
 public:
  Keeper(std::string home, LimaVm vm, Bytes amount, EndSignals& signals)
      : home_(std::move(home)), vm_(std::move(vm)), amount_(amount), signals_(signals), report_(home_) {}

  // Before the stop. Throws Refusal where the guest is, or may be, paused for space and cannot be helped:
  // stopping it now would lose what it has not written; and where it is to end.
  void prepare() {
    const Snapshot snapshot = snapshot_now();
    const AccountFigures* account = find_account(snapshot, vm_.name);
    const GuestAnswer answer = ask_guest(vm_.qmp_socket(), false);
    if (answer.reached == GuestAnswer::Reached::silent && account != nullptr && account->refused_writes > 0) {
      throw Refusal(fmt::format("{} may be paused for space, and then loses data when it is stopped: {}",
                                name(), answer.why));
    }
    if (!answer.is_paused()) {
      if (account != nullptr) refused_ = account->refused_writes;
      return;
    }
    while (!help() && why_helpless_.empty()) {
      if (signals_.came()) throw Refusal(fmt::format("interrupted: {} was not stopped", name()));
    }
    if (!why_helpless_.empty()) {
      throw Refusal(
          fmt::format("{} is paused for space and would lose data when stopped; {}", name(), why_helpless_));
    }
  }

  // Now and then during the stop.
  void look() {
    if (Clock::now() < next_) return;
    next_ = Clock::now() + between_looks;
    try {
      const Snapshot snapshot = snapshot_now();
      const AccountFigures* account = find_account(snapshot, vm_.name);
      if (account == nullptr || (account->refused_writes == refused_ && why_helpless_.empty())) return;
      if (!ask_guest(vm_.qmp_socket(), false, quick).is_paused()) return;
      help();
    } catch (const std::exception& error) {
      why_helpless_ = error.what();
      return tell(fmt::format("no help where it is paused for space while it shuts down: {}", why_helpless_));
    }
    if (!why_helpless_.empty()) {
      tell(fmt::format("paused for space again while it shuts down; {}", why_helpless_));
    }
  }

  // Ends the loans; says so.
  void end() {
    if (!lent_ || !lent_->is_active()) return;
    lent_->end();
    say(stdout, fmt::format("{}: the loan has ended\n", name()));
  }

 private:
  std::string name() const { return escape_name(vm_.name); }

  Snapshot snapshot_now() {
    return report_.read([this] { return !signals_.came(); }).snapshot;
  }

  // Once: somebody may give it room all the same.
  void tell(const std::string& trouble) {
    if (!signals_.came() && !std::exchange(told_, true)) {
      say(stderr, fmt::format("{}: {}\n", name(), trouble));
    }
  }

  // The guest is paused for space. True where it goes on; false where it must be tried again, or, with the
  // reason in why_helpless_, cannot be helped.
  bool help() {
    why_helpless_.clear();
    const unsigned loans_before = loans_;
    Snapshot snapshot = snapshot_now();
    if (const AccountFigures* account = find_account(snapshot, vm_.name); account != nullptr) {
      refused_ = account->refused_writes;
      if (account->writable < amount_ && loans_ < most_loans) {
        lend();
        snapshot = snapshot_now();
        account = find_account(snapshot, vm_.name);
      }
      if (!has_room(account)) {
        why_helpless_ = why_no_room(*account, snapshot.host);
        return false;
      }
    }
    const GuestAnswer answer = ask_guest(vm_.qmp_socket(), true);
    if (answer.reached == GuestAnswer::Reached::silent) why_helpless_ = answer.why;
    if (answer.paused_again && loans_ == most_loans) {
      why_helpless_ = fmt::format(
          "loans of {} are used up: lend more (--lend SIZE), or raise its limit "
          "(limaquota set {} SIZE)",
          format_size(amount_), shell_quoted(vm_.name));
    } else if (answer.paused_again && loans_ == loans_before && !is_short()) {
      why_helpless_ = fmt::format(
          "it has room here and is paused again: is a disk of it on another filesystem, which is full, or "
          "its write larger than {} (--lend SIZE)?",
          format_size(amount_));
    }
    return answer.reached != GuestAnswer::Reached::silent && !answer.paused_again;
  }

  // Whether a loan would give it more than it has.
  bool is_short() {
    const Snapshot snapshot = snapshot_now();
    const AccountFigures* account = find_account(snapshot, vm_.name);
    return account != nullptr && account->writable < amount_;
  }

  void lend() {
    if (lent_) {
      lent_->again(amount_, loan_duration);
    } else {
      lent_.emplace(home_, vm_.name, amount_, loan_duration);
      guard_.emplace([this] { lent_->end(); });
    }
    ++loans_;
    if (lent_->is_active()) {
      say(stdout, fmt::format("{}: paused for space; lent {}\n", name(), format_size(amount_)));
    }
  }

  std::string home_;
  LimaVm vm_;
  Bytes amount_;
  EndSignals& signals_;
  ReportReader report_;
  std::optional<Lent> lent_;
  std::optional<Guard> guard_;  // ends the loan also where this process is killed
  unsigned loans_ = 0;
  uint64_t refused_ = 0;  // as counted when it was last helped: none since, so it is not paused again
  Clock::time_point next_;
  std::string why_helpless_;
  bool told_ = false;  // of trouble
};

void warn_if_over(const std::string& home, const std::string& name) {
  const Snapshot snapshot = read_report(home).snapshot;
  const AccountFigures* account = find_account(snapshot, name);
  if (account == nullptr || account->used <= account->limit) return;
  say(stderr,
      fmt::format(
          "warning: {} occupies {}, more than its limit of {}: raise the limit before it is started, or "
          "free space in it (limaquota reclaim {} --offline)\n",
          escape_name(name), format_size(account->used), format_size(account->limit), shell_quoted(name)));
}

int run_stop(const StopArguments& arguments) {
  const std::optional<Bytes> amount = parse_size(arguments.lend);
  if (!amount || amount->count() == 0) {
    throw WrongUse(fmt::format("--lend: '{}' is no size; write 256MiB or 1GiB", escape_name(arguments.lend)));
  }
  const std::string home = real_path(choose_home(arguments.home));
  read_report(home);  // refuses where nothing answers, before the tree is touched
  const LimaVm vm = find_lima_vm(home, arguments.name);
  if (!find_program("limactl")) throw Refusal("there is no limactl in $PATH, which stops VMs: install Lima");
  EndSignals signals;
  Keeper keeper(home, vm, *amount, signals);
  keeper.prepare();
  RunOptions options;
  options.environment = {"LIMA_HOME=" + home};
  options.show = true;
  options.keep_on = [&] {
    keeper.look();
    return !signals.came();
  };
  const Ended ended = signals.came() ? Ended() : run_program({"limactl", "stop", vm.name}, options);
  keeper.end();
  if (signals.came()) throw Refusal(fmt::format("interrupted: {} may not be stopped", escape_name(vm.name)));
  if (!ended.ok()) {
    throw Refusal(fmt::format("limactl stop {}: {}", escape_name(vm.name), ended.complaint()));
  }
  warn_if_over(home, vm.name);
  return 0;
}

}  // namespace

void add_stop(Program& program) {
  Command command = program.command("stop", "Stop a VM without loss, also where it is paused for space");
  auto arguments = std::make_shared<StopArguments>();
  command.text("VM", arguments->name, "The VM").shown_as("NAME").required();
  command.text("--lend", arguments->lend, "How much room a paused VM is lent, twice at most")
      .shown_as("SIZE")
      .with_default_shown();
  add_home_option(command, arguments->home);
  command.footer(
      "A paused guest cannot shut down: after three minutes Lima kills it, and what it has not written is "
      "lost. So it is lent room for the time of its shutdown, told to go on, and stopped by \"limactl "
      "stop\"; "
      "then the loan ends, also where this command is interrupted.\n"
      "Examples:\n"
      "  limaquota stop kernel-build\n"
      "  limaquota stop kernel-build --lend 1GiB");
  program.on(command, [arguments] { return run_stop(*arguments); });
}

}  // namespace limaquota
