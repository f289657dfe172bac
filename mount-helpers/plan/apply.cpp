// limaquota apply TEMPLATE --name VM [--start] [--force] [--home DIR]
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "fs/system/fd.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/limit_file.hpp"
#include "mount-helpers/plan/plan.hpp"
#include "mount-helpers/programs/end_signals.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::minutes delete_deadline{2};

struct ApplyArguments {
  std::string name_or_path;
  std::string vm;
  std::string home;
  bool start = false;
  bool force = false;
};

// What Lima takes for a name: letters and digits, with single `.`, `_` or `-` between them, at most 76.
// Source: Lima 2.2, pkg/identifiers.
bool is_lima_name(const std::string& name) {
  constexpr size_t longest = 76;
  if (name.size() > longest) return false;
  bool separated = true;
  for (const char c : name) {
    const bool is_separator = c == '.' || c == '_' || c == '-';
    if (is_separator ? separated : std::isalnum(static_cast<unsigned char>(c)) == 0) return false;
    separated = is_separator;
  }
  return !separated;
}

fs::path profile_directory(const std::string& home) { return fs::path(home) / "_config" / "limaquota"; }

// One apply at a time makes a VM of that name: what is there when it failed, it made itself.
class NameLock {
 public:
  // Throws Refusal where another has it.
  NameLock(const std::string& home, const std::string& vm)
      : path_(profile_directory(home) / ("." + vm + ".apply")) {
    std::error_code error;
    fs::create_directories(path_.parent_path(), error);
    struct stat locked {
    }, there{};
    do {  // the one who had it removes the file
      file_ = Fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
      if (!file_) throw Refusal(fmt::format("{}: {}", escape_name(path_.string()), std::strerror(errno)));
      if (::flock(file_.get(), LOCK_EX | LOCK_NB) == 0) continue;
      const int why = errno;
      throw Refusal(why == EWOULDBLOCK
                        ? fmt::format("another apply makes '{}' just now: wait for its end, or "
                                      "choose another name",
                                      escape_name(vm))
                        : fmt::format("cannot lock {}: {}", escape_name(path_.string()), std::strerror(why)));
    } while (::fstat(file_.get(), &locked) != 0 || ::stat(path_.c_str(), &there) != 0 ||
             locked.st_ino != there.st_ino);
  }
  ~NameLock() { ::unlink(path_.c_str()); }
  NameLock(const NameLock&) = delete;
  NameLock& operator=(const NameLock&) = delete;

 private:
  fs::path path_;
  Fd file_;
};

// The limit of a VM that is about to be made; taken back, unless it is kept, or somebody has set another.
class LimitFirst {
 public:
  LimitFirst(const std::string& home, const std::string& vm, Bytes limit)
      : home_(home), vm_(vm), former_(limit_text(home, vm)) {
    Limits limits = former_ ? read_limits(home, vm) : Limits{};
    limits.limit = limit;
    write_limits(home, vm, limits);
    written_ = limits_text(limits);
  }
  ~LimitFirst() {
    if (kept_) return;
    try {
      if (limit_text(home_, vm_) == written_) restore_limit_text(home_, vm_, former_);
    } catch (const std::exception& error) {
      fmt::print(stderr, "limaquota: the limit of {} is not taken back: {}\n", escape_name(vm_),
                 error.what());
    }
  }
  LimitFirst(const LimitFirst&) = delete;
  LimitFirst& operator=(const LimitFirst&) = delete;
  void keep() { kept_ = true; }

 private:
  std::string home_, vm_;
  std::optional<std::string> former_;
  std::string written_;
  bool kept_ = false;
};

void refuse_what_is_there(const std::string& home, const ApplyArguments& arguments, Bytes limit) {
  const std::string vm = escape_name(arguments.vm);
  if (fs::exists(fs::symlink_status(fs::path(home) / arguments.vm))) {
    throw Refusal(
        fmt::format("there is a VM '{0}' already: choose another name, or \"limactl delete {0}\"", vm));
  }
  if (arguments.force || !has_limit_file(home, arguments.vm)) return;
  const Bytes former = read_limits(home, arguments.vm).limit;
  if (former == limit) return;
  throw Refusal(fmt::format(
      "there is a limit of {} for '{}' already, not {}: remove it (rm {}), or use --force",
      format_size(former), vm, format_size(limit), shell_quoted(home + "/.quota/" + arguments.vm)));
}

// `status` calls a VM temporary by this file; it goes with the name, so an older VM's file is replaced.
void store_profile(const std::string& home, const ApplyArguments& arguments, const Candidate& candidate) {
  const fs::path directory = profile_directory(home);
  const fs::path file = directory / (arguments.vm + ".yaml");
  std::error_code error;
  if (!candidate.profile) {
    fs::remove(file, error);
    return;
  }
  fs::create_directories(directory, error);
  const fs::path scratch = directory / ("." + arguments.vm + ".new");
  std::ofstream stream(scratch, std::ios::binary | std::ios::trunc);
  stream << candidate.profile_text;
  stream.close();
  if (stream) fs::rename(scratch, file, error);
  if (!stream || error) {
    fmt::print(stderr, "warning: its profile could not be kept as {}; status will not know it\n",
               file.string());
  }
}

RunOptions for_limactl(const std::string& home) {
  RunOptions options;
  options.environment = {"LIMA_HOME=" + home};
  options.show = true;
  return options;
}

// Fails also where it was ended since we were told to end.
Ended run_limactl(const std::string& home, EndSignals& signals, std::vector<std::string> words) {
  RunOptions options = for_limactl(home);
  options.keep_on = [&signals] { return !signals.came(); };
  words.insert(words.begin(), "limactl");
  return run_program(words, options);
}

bool is_there(const std::string& home, const std::string& vm) {
  std::error_code error;
  return fs::symlink_status(fs::path(home) / vm, error).type() != fs::file_type::not_found;
}

// A VM whose making failed half-way could be started all the same: Lima writes its lima.yaml first. False
// where some of it stays.
bool remove_part_made(const std::string& home, const std::string& vm) {
  if (!is_there(home, vm)) return true;
  RunOptions options = for_limactl(home);
  options.deadline = delete_deadline;
  run_program({"limactl", "delete", "--force", vm}, options);
  return !is_there(home, vm);
}

// The name is free. Throws Refusal, with no VM left, or one that has its limit.
void create(const std::string& home, EndSignals& signals, const ApplyArguments& arguments,
            const Candidate& candidate) {
  LimitFirst limit(home, arguments.vm, candidate.vm.limit);
  const Ended ended = run_limactl(
      home, signals, {"create", "--tty=false", "--name=" + arguments.vm, candidate.file.string()});
  const bool keep = ended.ok() || !remove_part_made(home, arguments.vm);
  if (keep) limit.keep();
  if (ended.ok()) return;
  throw Refusal(fmt::format(
      "limactl create failed ({}): {}", ended.complaint(),
      keep ? "a part of it is left, and keeps its limit: limactl delete " + escape_name(arguments.vm)
           : "the limit is taken back"));
}

int run_apply(const ApplyArguments& arguments) {
  if (!is_lima_name(arguments.vm)) {
    throw WrongUse(fmt::format("'{}' is no name for a VM: letters and digits, with single . _ - between them",
                               escape_name(arguments.vm)));
  }
  const std::string home = choose_home(arguments.home);
  read_report(home);  // refuses where it is not mounted
  const HostView host = look_at_host(home, std::nullopt);
  const Plan plan = make_plan({read_candidate(home, arguments.name_or_path)}, host);
  const Candidate& candidate = plan.candidates.front();
  refuse_what_is_there(home, arguments, candidate.vm.limit);
  fmt::print("{}\n", plan_text(plan));
  if (!plan.fits() && !arguments.force) {
    throw Refusal(
        fmt::format("{} is not made: it does not fit, {} are missing (--force makes it none the less)",
                    escape_name(arguments.vm), format_size(plan.answer.missing)));
  }
  if (!find_program("limactl")) throw Refusal("no limactl in PATH: install Lima first");
  std::fflush(stdout);  // before limactl's own output

  EndSignals signals;  // whatever ends us, a limit that is for nothing is taken back
  const NameLock lock(home, arguments.vm);
  refuse_what_is_there(home, arguments, candidate.vm.limit);  // what came meanwhile is another's
  create(home, signals, arguments, candidate);
  store_profile(home, arguments, candidate);
  fmt::print("{}: made, limit {}\n", escape_name(arguments.vm), format_size(candidate.vm.limit));
  if (!arguments.start) return 0;
  std::fflush(stdout);
  const Ended started = run_limactl(home, signals, {"start", "--tty=false", arguments.vm});
  if (started.ok()) return 0;
  throw Refusal(fmt::format("limactl start failed ({}): the VM and its limit stay", started.complaint()));
}

}  // namespace

void add_apply(Program& program) {
  Command command = program.command("apply", "Makes a VM by a template, its limit first");
  auto arguments = std::make_shared<ApplyArguments>();
  command
      .text("TEMPLATE", arguments->name_or_path,
            "A Lima template: a file, or the name of one that ships with limaquota")
      .required()
      .shown_as(" ");
  command.text("--name", arguments->vm, "The new VM's name").shown_as("VM").required();
  command.flag("--start", arguments->start, "Also starts it");
  command.flag("--force", arguments->force,
               "Makes it though it does not fit, and though there is another limit for that name");
  add_home_option(command, arguments->home);
  command.footer(
      "Plans as \"limaquota plan\" does and goes on where it fits. The limit is the profile's, or else the "
      "virtual\n"
      "size; it is written before limactl creates the VM, so that it is held from the VM's first byte, and "
      "taken\n"
      "back where that fails.\n"
      "Examples:\n"
      "  limaquota apply zfs-test-minimal --name zfs\n"
      "  limaquota apply ./my-template.yaml --name build --start");
  program.on(command, [arguments] { return run_apply(*arguments); });
}

}  // namespace limaquota
