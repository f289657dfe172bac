// limaquota watch [--json] [--on-event CMD] [--home DIR]
#include <fmt/core.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/programs/end_signals.hpp"
#include "mount-helpers/terminal/terminal.hpp"
#include "mount-helpers/watch/hooks.hpp"
#include "mount-helpers/watch/levels.hpp"
#include "mount-helpers/watch/pauses.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::milliseconds between_looks{1000};

struct WatchArguments {
  std::string home;
  std::string command;
  bool json = false;
};

// Reads the figures again and again; tells once where that fails, and once where it works again.
class Reader {
 public:
  Reader(std::string home, EndSignals& signals) : home_(std::move(home)), signals_(signals), report_(home_) {}

  std::optional<Snapshot> read() {
    try {
      Snapshot snapshot = report_.read([this] { return !signals_.came(); }).snapshot;
      if (!trouble_.empty()) warn(fmt::format("limaquota: {} answers again", home_));
      trouble_.clear();
      return snapshot;
    } catch (const Refusal& refusal) {
      if (signals_.came()) return std::nullopt;  // it was told to wait no longer
      if (trouble_ != refusal.what()) warn(fmt::format("limaquota: waiting: {}", refusal.what()));
      trouble_ = refusal.what();
      return std::nullopt;
    }
  }

 private:
  std::string home_;
  EndSignals& signals_;
  ReportReader report_;
  std::string trouble_;
};

void tell(const Event& event, bool json, EventHooks& hooks) {
  fmt::print("{}\n", json ? event_json(event) : event_line(event));
  if (std::fflush(stdout) != 0) throw Refusal("cannot write to standard output");
  hooks.tell(event);
}

void run_watch(const WatchArguments& arguments) {
  const std::string home = real_path(choose_home(arguments.home));
  EndSignals signals;  // before the hooks' thread
  EventHooks hooks(arguments.command);
  Reader reader(home, signals);
  WatchLevels levels;
  WatchPauses pauses(home);
  do {
    const std::optional<Snapshot> snapshot = reader.read();
    if (!snapshot) continue;
    for (const Event& event : levels.look(*snapshot)) tell(event, arguments.json, hooks);
    for (const Event& event : pauses.look(*snapshot, WatchPauses::Clock::now())) {
      tell(event, arguments.json, hooks);
    }
  } while (!signals.came(between_looks));
}

}  // namespace

void add_watch(Program& program) {
  Command command = program.command("watch", "Tell of VMs close to their limit, and resume paused ones");
  auto arguments = std::make_shared<WatchArguments>();
  command.flag("--json", arguments->json, "A line of JSON for each event, in bytes; null means max");
  command.text("--on-event", arguments->command, "Run by sh for each event; see below").shown_as("CMD");
  add_home_option(command, arguments->home);
  command.footer(
      "Runs until it is ended. Prints a line for each event: warn (close to the limit), full (the limit is "
      "used "
      "up), host_full (the host has only its reserve left), paused, resumed. A VM that was paused for space "
      "is resumed when it can write at least 256 MiB and 1 % of its limit, at most once a minute. Where "
      "notify-send is installed the desktop shows the events. An unmounted home is waited for.\n"
      "CMD finds in its environment LIMAQUOTA_EVENT, LIMAQUOTA_VM (_host for host_full), LIMAQUOTA_TIME, "
      "LIMAQUOTA_STATE, LIMAQUOTA_USED, LIMAQUOTA_LIMIT, LIMAQUOTA_WRITABLE, LIMAQUOTA_HOST_FREE and "
      "LIMAQUOTA_HOST_RESERVE, in bytes or max; it is ended after 30 s.\n"
      "Examples:\n"
      "  limaquota watch\n"
      "  limaquota watch --on-event 'logger \"$LIMAQUOTA_VM: $LIMAQUOTA_EVENT\"'\n"
      "  limaquota watch --json | jq 'select(.event == \"paused\")'");
  program.on(command, [arguments] {
    run_watch(*arguments);
    return 0;
  });
}

}  // namespace limaquota
