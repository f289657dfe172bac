// limaquota stop VM [--lend SIZE] [--home DIR]
#include <fmt/core.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/kept_going.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/end_signals.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds loan_duration{600};  // Lima gives a guest three minutes
constexpr std::chrono::milliseconds between_looks{1000};
constexpr std::chrono::milliseconds quick{1000};
// From a write that is refused until its guest is paused.
constexpr std::chrono::milliseconds until_paused{200};

struct StopArguments {
  std::string name;
  std::string lend{default_loan};
  std::string home;
};

// Never fails: that nobody reads it any more ends neither a stop nor a loan early.
void say(std::FILE* to, const std::string& line) {
  std::fputs(line.c_str(), to);
  std::fflush(to);
}

// A VM that is stopped, and whose guest may be paused for space before and meanwhile.
class Stopping {
 public:
  Stopping(const std::string& home, const LimaVm& vm, Bytes loan, EndSignals& signals)
      : name_(escape_name(vm.name)), signals_(signals), guest_(home, vm, terms(loan)) {}

  // Before the stop. Throws Refusal where the guest is, or may be, paused for space and cannot be helped:
  // stopping it now would lose what it has not written; and where this command is to end.
  void prepare() {
    const std::optional<AccountFigures> figures = guest_.figures();
    const bool was_refused = figures && figures->refused_writes > 0;
    Kept kept = have_it_go_on();
    if (kept.guest == Kept::Guest::goes_on && was_refused) {
      std::this_thread::sleep_for(until_paused);
      kept = have_it_go_on();
    }
    const bool is_silent = kept.guest == Kept::Guest::no_answer;
    const bool is_paused = kept.state == GuestState::no_space;
    if (kept.guest == Kept::Guest::no_more_help || (is_silent && is_paused)) {
      throw Refusal(
          fmt::format("{} is paused for space and would lose data when stopped; {}", name_, kept.why));
    }
    if (is_silent && was_refused) {
      throw Refusal(fmt::format("{} may be paused for space, and then loses data when it is stopped: {}",
                                name_, kept.why));
    }
  }

  // Now and then during the stop.
  void look() {
    if (Clock::now() < next_) return;
    look_now();
    next_ = Clock::now() + between_looks;
  }

  // Ends the loan; says so.
  void end() {
    if (guest_.end()) say(stdout, fmt::format("{}: the loan has ended\n", name_));
  }

 private:
  // Until it does, or cannot be made to.
  Kept have_it_go_on() {
    Kept kept = guest_.look();
    while (kept.guest == Kept::Guest::again) {
      if (signals_.came()) throw Refusal(fmt::format("interrupted: {} was not stopped", name_));
      kept = guest_.look();
      if (kept.guest == Kept::Guest::no_answer) kept.state = GuestState::no_space;  // as it was just now
    }
    return kept;
  }

  void look_now() {
    try {
      const std::optional<AccountFigures> figures = guest_.figures();
      if (!figures || !(guest_.was_refused(*figures) || is_helpless_)) return;
      const Kept kept = guest_.look(quick);
      const bool is_silent = kept.guest == Kept::Guest::no_answer;
      if (is_silent && kept.state != GuestState::no_space) return;  // asked again
      is_helpless_ = is_silent || kept.guest == Kept::Guest::no_more_help;
      if (is_helpless_) tell(fmt::format("paused for space again while it shuts down; {}", kept.why));
    } catch (const std::exception& error) {
      is_helpless_ = true;
      tell(fmt::format("no help where it is paused for space while it shuts down: {}", error.what()));
    }
  }

  KeptGoing::Terms terms(Bytes loan) {
    return {loan, loan_duration, "--lend",
            [this, loan] {
              say(stdout, fmt::format("{}: paused for space; lent {}\n", name_, format_size(loan)));
            },
            [this] { return !signals_.came(); }};
  }

  // Once: somebody may give it room all the same.
  void tell(const std::string& trouble) {
    if (!signals_.came() && !std::exchange(told_, true)) {
      say(stderr, fmt::format("{}: {}\n", name_, trouble));
    }
  }

  const std::string name_;  // escaped
  EndSignals& signals_;
  KeptGoing guest_;
  Clock::time_point next_;
  bool is_helpless_ = false;
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
  Stopping stopping(home, vm, *amount, signals);
  stopping.prepare();
  RunOptions options;
  options.environment = {"LIMA_HOME=" + home};
  options.show = true;
  options.keep_on = [&] {
    stopping.look();
    return !signals.came();
  };
  const Ended ended = signals.came() ? Ended() : run_program({"limactl", "stop", vm.name}, options);
  stopping.end();
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
