// limaquota metrics [--output FILE] [--home DIR]
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "accounting/escape.hpp"
#include "accounting/usage_text.hpp"
#include "fs/system/fd.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"

namespace limaquota {
namespace {

struct MetricsArguments {
  std::string output;
  std::string home;
};

// The name by which the daemon calls the home in its metrics, also where the daemon or the home is gone.
std::string label_of(const std::string& home) {
  try {
    return real_path(home);
  } catch (const Refusal&) {
    const std::filesystem::path path = std::filesystem::absolute(home).lexically_normal();
    return path.has_filename() ? path : path.parent_path();  // without a slash at its end
  }
}

bool write_whole(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// The file is whole at any moment: a new one takes its name. The new one's own name does not end in .prom, so
// that no collector reads it. It need not outlast a crash of the host, and is not synced.
void replace_file(const std::string& path, std::string_view text) {
  std::string scratch = path + ".XXXXXX";
  Fd file(::mkstemp(scratch.data()));
  bool done = false;
  if (file) {
    done = write_whole(file.get(), text) && ::fchmod(file.get(), 0644) == 0 &&
           ::rename(scratch.c_str(), path.c_str()) == 0;
  }
  if (done) return;
  const int error = errno;
  if (file) ::unlink(scratch.c_str());
  throw Refusal(fmt::format("cannot write {}: {}; its directory must exist and be writable for you",
                            escape_name(path), std::strerror(error)));
}

void run_metrics(const MetricsArguments& arguments) {
  const std::string home = choose_home(arguments.home);
  std::string text;
  try {
    text = read_usage(home, "_metrics");
  } catch (const Refusal&) {
    if (!arguments.output.empty()) replace_file(arguments.output, prometheus_down_text(label_of(home)));
    throw;
  }
  if (arguments.output.empty()) {
    fmt::print("{}", text);
  } else {
    replace_file(arguments.output, text);
  }
}

}  // namespace

void add_metrics(Program& program) {
  Command command = program.command("metrics", "The figures as Prometheus text, for many machines");
  auto arguments = std::make_shared<MetricsArguments>();
  command
      .text("--output", arguments->output,
            "Replace this file, in one step; name it *.prom, in the directory of node_exporter's "
            "textfile collector")
      .shown_as("FILE");
  add_home_option(command, arguments->home);
  command.footer(
      "Every series carries home=\"DIR\". Where the mount is missing, dead or does not answer, the exit "
      "status is 1, "
      "and FILE says limaquota_up 0, so that an alert can fire.\n"
      "Examples:\n"
      "  limaquota metrics | grep time_to_full\n"
      "  limaquota metrics --output /var/lib/prometheus/node-exporter/limaquota.prom\n"
      "  cat ~/.lima/.usage/_metrics                the same figures, without this command");
  program.on(command, [arguments] {
    run_metrics(*arguments);
    return 0;
  });
}

}  // namespace limaquota
