// limaquota enable, limaquota disable
#include <fmt/core.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/mounting/units.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

// Starting waits for the mount's scan, stopping for its VMs.
constexpr std::chrono::minutes systemctl_deadline{5};
constexpr std::string_view systemd_search_path =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct EnableArguments {
  std::string home;
  std::string metrics;
};

Ended systemctl(std::vector<std::string> words) {
  words.insert(words.begin(), {"systemctl", "--user"});
  RunOptions options;
  options.deadline = systemctl_deadline;
  return run_program(words, options);
}

std::string user_name() {
  const passwd* user = ::getpwuid(::geteuid());
  return user == nullptr ? std::to_string(::geteuid()) : user->pw_name;
}

// What systemd's own PATH lacks for limactl, which stops VMs.
std::string search_path() {
  const auto limactl = find_program("limactl");
  if (!limactl) return "";
  const std::string directory = fs::absolute(limactl->parent_path()).string();
  const bool known =
      (":" + std::string(systemd_search_path) + ":").find(":" + directory + ":") != std::string::npos;
  return known ? "" : directory + ":" + std::string(systemd_search_path);
}

// The file that node_exporter's textfile collector is to find in the directory.
std::string metrics_file_in(const std::string& directory) {
  const std::string path = real_path(directory);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || ::access(path.c_str(), W_OK) != 0) {
    throw Refusal(fmt::format("{} is no directory that {} may write to: sudo install -d -o {} {}",
                              escape_name(path), user_name(), user_name(), shell_quoted(path)));
  }
  return path + "/limaquota-" + user_name() + ".prom";
}

// VMs outlive a logout; the user manager, and with it the mount, does so only where the user lingers.
void linger() {
  // By name: without one loginctl takes the session's user, and ssh or cron may have no session.
  const Ended ended = run_program({"loginctl", "enable-linger", user_name()});
  if (ended.ok()) {
    fmt::print("lingering is on: the mount comes with the machine and stays after you log out, as VMs do\n");
    return;
  }
  fmt::print(
      stderr,
      "limaquota: lingering could not be turned on ({}): after you log out VMs go on running and the mount "
      "is taken from under them; run: sudo loginctl enable-linger {}\n",
      ended.complaint(), user_name());
}

void start_units(const std::string& home, bool metrics) {
  const Ended reloaded = systemctl({"daemon-reload"});
  if (!reloaded.ok()) {
    fmt::print("no user manager of systemd answers here ({}): {} is mounted from the next login\n",
               reloaded.complaint(), home);
    return;
  }
  std::vector<std::string> words = {"start"};
  if (metrics) words.emplace_back(metrics_timer);
  const bool active = systemctl({"is-active", "--quiet", mount_unit}).ok();
  const bool by_hand = !active && is_mountpoint(home) && ::access((home + "/.usage").c_str(), F_OK) == 0;
  const std::string vms = active || by_hand ? "" : quoted_names(running_vms(home));
  if (by_hand) {
    fmt::print(
        "{} is mounted by hand: the unit takes over at the next login, or by: limaquota umount {} && "
        "systemctl --user start limaquota\n",
        home, shell_quoted(home));
  } else if (!vms.empty()) {
    fmt::print(
        "VMs run on the bare tree: the unit mounts {} from the next login, or by: limactl stop {} && "
        "systemctl --user start limaquota\n",
        home, vms);
  } else {
    words.insert(words.end(), {mount_unit, watch_unit});
  }
  if (words.size() == 1) return;
  const Ended started = systemctl(words);
  if (!started.ok()) {
    throw Refusal(
        fmt::format("enabled, but not started: {}; see: journalctl --user -n 20 -u limaquota -u "
                    "limaquota-watch",
                    started.complaint()));
  }
  if (words.back() == watch_unit) fmt::print("{} is mounted and watched\n", home);
}

std::string existing_home(const std::string& given) {
  const std::string home = choose_home(given);
  if (auto path = find_real_path(home)) {
    refuse_hung(*path);
    return std::move(*path);
  }
  throw Refusal(fmt::format("there is no {}; create it first (limactl does at its first start): mkdir -p {}",
                            escape_name(home), shell_quoted(home)));
}

void run_enable(const EnableArguments& arguments) {
  const std::string home = existing_home(arguments.home);
  const UnitDirectory directory;
  const auto covered = directory.home();
  if (covered && *covered != home) {
    throw Refusal(fmt::format("{} is enabled already, and there is one unit: run \"limaquota disable\" first",
                              escape_name(*covered)));
  }
  UnitValues values;
  values.program = real_path("/proc/self/exe");
  values.home = home;
  values.search_path = search_path();
  values.metrics_file =
      arguments.metrics.empty() ? directory.metrics_file() : metrics_file_in(arguments.metrics);
  directory.install(unit_files(values));
  fmt::print("units are in {}\n", directory.path().string());
  linger();
  start_units(home, !values.metrics_file.empty());
}

void run_disable() {
  const UnitDirectory directory;
  const auto home = directory.home();
  const std::string metrics_file = directory.metrics_file();
  if (home) refuse_hung(*home);
  const std::string vms = home && is_mountpoint(*home) ? quoted_names(running_vms(*home)) : "";
  if (!vms.empty()) {
    throw Refusal(fmt::format("VMs run from {}: stop them first: limactl stop {}", *home, vms));
  }
  if (systemctl({"daemon-reload"}).ok()) {
    const Ended stopped = systemctl({"stop", metrics_timer, watch_unit, mount_unit});
    // Units that are not loaded cannot be stopped, and need not be.
    if (!stopped.ok() && systemctl({"is-active", "--quiet", mount_unit}).ok()) {
      throw Refusal(fmt::format("the mount did not end: {}", stopped.complaint()));
    }
  }
  directory.remove();
  systemctl({"daemon-reload"});
  if (!metrics_file.empty()) ::unlink(metrics_file.c_str());
  if (!home) {
    fmt::print("nothing was enabled\n");
    return;
  }
  fmt::print("{} is no longer mounted at login; limits stay in it\n", *home);
  if (is_mountpoint(*home))
    fmt::print("it is still mounted, by hand: limaquota umount {}\n", shell_quoted(*home));
  if (::access(("/var/lib/systemd/linger/" + user_name()).c_str(), F_OK) == 0) {
    fmt::print("lingering stays on, as other units may need it; to turn it off: loginctl disable-linger {}\n",
               user_name());
  }
}

}  // namespace

void add_enable(Program& program) {
  Command command = program.command("enable", "Have the mount there after every login, by systemd");
  auto arguments = std::make_shared<EnableArguments>();
  add_home_option(command, arguments->home);
  command
      .text("--metrics", arguments->metrics,
            "Also write the metrics there every 15 s, for node_exporter's textfile collector")
      .shown_as("DIR");
  command.footer(
      "Writes user units (the mount, \"limaquota watch\", and a drop-in by which Lima's own units wait for "
      "the "
      "mount), turns on lingering, and starts them. Stopping the unit first stops the VMs that run from it.\n"
      "Examples:\n"
      "  limaquota enable\n"
      "  limaquota enable --metrics /var/lib/prometheus/node-exporter\n"
      "  systemctl --user status limaquota\n"
      "  systemctl --user stop limaquota       stops the VMs too\n"
      "  journalctl --user -u limaquota-watch  what became of the VMs");
  program.on(command, [arguments] {
    run_enable(*arguments);
    return 0;
  });
}

void add_disable(Program& program) {
  Command command = program.command("disable", "Take back what enable did, and unmount");
  command.footer(
      "Refuses while VMs run from the mount. Limits stay: they are files in the home.\n"
      "Examples:\n"
      "  limaquota disable");
  program.on(command, [] {
    run_disable();
    return 0;
  });
}

}  // namespace limaquota
