#include "fs/daemon/mount_home.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "accounting/names.hpp"
#include "fs/daemon/mount_channel.hpp"
#include "fs/daemon/preflight.hpp"
#include "fs/daemon/supervisor.hpp"
#include "fs/daemon/upgrade.hpp"
#include "fs/handover/notes.hpp"
#include "fs/serving/filesystem.hpp"
#include "fs/serving/session.hpp"
#include "fs/serving/uring.hpp"
#include "fs/system/caller.hpp"
#include "fs/system/log.hpp"
#include "fs/system/mountinfo.hpp"

namespace limaquota {
namespace {

// A worker whose figures are in doubt serves for so long at least before another one counts anew.
constexpr auto doubt_interval = std::chrono::seconds(10);

int fail(const std::string& message) {
  fmt::print(stderr, "limaquota: {}\n", message);
  return 1;
}

std::string resolved(const std::string& path) {
  char buffer[PATH_MAX];
  return ::realpath(path.c_str(), buffer) == nullptr ? std::string() : std::string(buffer);
}

// Every inode that the kernel knows costs a descriptor. Some of them are for the supervisor, and for a worker
// that takes over: the one before may have used all it could get.
enum class DescriptorsFor { supervisor, serving };
void set_descriptor_limit(DescriptorsFor whom) {
  constexpr rlim_t kept_free = 64;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, DescriptorNotes::most);
  if (whom == DescriptorsFor::serving) limit.rlim_cur -= std::min(kept_free, limit.rlim_cur / 8);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Tells the waiting parent, if there is one, that the mount answers (an empty text) or why it does not.
// A worker may die between any two of its steps, and the next one goes on: whether it was told is in `told`.
class Starter {
 public:
  explicit Starter(Fd pipe) : pipe_(std::move(pipe)) {}
  void tell_ready(Notes& notes) {
    if (notes.process.told) return abandon();
    say("");
    notes.process.told = true;
    if (pipe_) notes.descriptors.of(pipe_.get()).set_use(DescriptorUse::passing);
    pipe_.reset();
  }
  // Its descriptor is another process's business.
  void abandon() { (void)pipe_.release(); }
  int fail_with(const std::string& message) {
    if (!pipe_) return fail(message);
    say(message);
    pipe_.reset();
    return 1;
  }

 private:
  void say(const std::string& text) {
    if (!pipe_) return;
    const std::string line = text + "\n";
    [[maybe_unused]] const ssize_t written = ::write(pipe_.get(), line.data(), line.size());
  }

  Fd pipe_;
};

// For another worker to try what this one cannot.
[[noreturn]] void give_up(const std::string& why) {
  log_error("{}", why);
  ::_exit(1);
}

// All that the daemon was told. Paths are resolved beforehand: in place they lead to the mount itself later.
struct Mounted {
  MountOptions options;
  std::string source;
  std::string mountpoint;
  std::string backing_options;  // those of the filesystem beneath, which a mount in place hides
  int root = -1;

  std::vector<std::string> words() const {
    std::vector<std::string> words{mountpoint,         source,          options.source,
                                   options.mountpoint, backing_options, std::to_string(root)};
    for (const bool set :
         {options.foreground, options.allow_other, options.refuse_with_edquot, options.io_uring})
      words.emplace_back(set ? "yes" : "no");
    words.insert(words.end(), options.flags.begin(), options.flags.end());
    return words;
  }

  explicit Mounted(MountOptions told) : options(std::move(told)) {}
  explicit Mounted(const std::vector<std::string>& words) {
    auto word = words.begin();
    mountpoint = *word++;
    source = *word++;
    options.source = *word++;
    options.mountpoint = *word++;
    backing_options = *word++;
    root = std::stoi(*word++);
    for (bool* set :
         {&options.foreground, &options.allow_other, &options.refuse_with_edquot, &options.io_uring})
      *set = *word++ == "yes";
    options.flags.assign(word, words.end());
  }
};

std::chrono::steady_clock::duration served_for(const Notes& notes) {
  return std::chrono::steady_clock::now().time_since_epoch() -
         std::chrono::steady_clock::duration(notes.process.serving_since.load());
}

Seams real_system() {
  return {[](const Notes&) { return std::make_unique<Sys>(); }, {}};
}

// What was open when the worker before died; nothing for the first worker.
std::vector<int> inherit(Notes& notes) {
  if (!notes.process.takes_over()) return {};
  auto open = notes.inherit();
  if (!open) give_up(fmt::format("cannot see what is open: {}", std::strerror(open.error().value)));
  notes.requests.release_all(notes.process.restarts);
  return std::move(*open);
}

FilesystemOptions options_of(const Mounted& mounted, const Seams& seams) {
  const MountOptions& options = mounted.options;
  FilesystemOptions result;
  result.backing_options = mounted.backing_options;
  result.homes = {mounted.mountpoint, mounted.source, options.source, options.mountpoint};
  result.noatime = std::count(options.flags.begin(), options.flags.end(), "noatime") > 0;
  if (options.refuse_with_edquot) result.refusal = EDQUOT;
  result.make_data_path = seams.make_data_path;
  return result;
}

// Why the session cannot begin; nothing where it can, or where the mount is gone already.
std::optional<std::string> begin(Session& session, const Notes& notes) {
  if (!session.good()) return "libfuse does not start";
  if (notes.process.takes_over()) {
    if (session.take_over()) return std::nullopt;
    return "this worker would not talk to the kernel as the one before did";
  }
  const auto shaken = session.shake_hands();
  if (shaken || shaken.error().value == ENODEV) return std::nullopt;
  return fmt::format("no handshake with the kernel: {}", std::strerror(shaken.error().value));
}

// The life of a worker.
int serve(const Mounted& mounted, const Seams& seams, Starter& starter, Notes& notes) {
  const MountOptions& options = mounted.options;
  const std::string& source = mounted.source;
  const std::string& mountpoint = mounted.mountpoint;
  const bool takes_over = notes.process.takes_over();
  const std::vector<int> inherited = inherit(notes);
  ::umask(0);
  const auto sys = seams.make_sys(notes);
  Filesystem fs(*sys, notes, Fd(mounted.root), options_of(mounted, seams));
  if (const auto started = fs.start(inherited); !started) {
    const std::string why = fmt::format("cannot read {}: {}", source, std::strerror(started.error().value));
    if (!takes_over) return starter.fail_with(why);
    give_up(why);
  }
  Fd device(notes.connection.device - 1);
  if (!takes_over) {
    auto opened = open_mount({source, mountpoint, options.allow_other, options.flags});
    if (const auto* failure = std::get_if<MountFailure>(&opened)) return starter.fail_with(failure->message);
    device = std::move(std::get<Fd>(opened));
    notes.descriptors.of(device.get()).set_use(DescriptorUse::lasting);
    notes.connection.device = device.get() + 1;
  }
  Session session(fs, std::move(device),
                  options.io_uring ? Session::Transport::io_uring : Session::Transport::device);
  if (const auto why = begin(session, notes)) {
    if (takes_over) give_up(*why);
    detach_mount(mountpoint);
    return starter.fail_with(*why);
  }
  set_descriptor_limit(DescriptorsFor::serving);
  if (!takes_over) drop_privileges();  // one that takes over did so at its start
  fs.settle([&notes] {
    // Not again and again, should the cause last.
    if (!notes.connection.restartable || notes.process.serving_since == 0 ||
        served_for(notes) < doubt_interval)
      return;
    give_up("what was done may not have been counted: the next worker counts anew");
  });
  notes.process.serving_since = std::chrono::steady_clock::now().time_since_epoch().count();
  starter.tell_ready(notes);
  if (!notes.process.ready) {
    log_info("{} is mounted on {}", source, mountpoint);
    notes.process.ready = true;
    ::kill(notes.process.supervisor, SIGUSR2);
  }
  if (!session.serve()) give_up("cannot serve: there is no thread for it");
  notes.process.gone = true;
  return 0;
}

int supervised(const Mounted& mounted, const Seams& seams, Starter& starter, Notes& notes) {
  const int status = supervise(
      notes,
      {mounted.mountpoint, [&] { return serve(mounted, seams, starter, notes); }, mounted.options.ready});
  // The descriptors were the workers' as well: which numbers are still ours nobody knows.
  starter.abandon();
  return status;
}

// Forks; the parent returns the exit status once the child says that the mount answers. 0 in the child.
std::optional<int> into_background(Fd* pipe_to_parent) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return fail(fmt::format("pipe: {}", std::strerror(errno)));
  Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail(fmt::format("fork: {}", std::strerror(errno)));
  if (child > 0) {
    write_end.reset();
    std::string said;
    char buffer[512];
    ssize_t got = 0;
    while (said != "\n" &&
           ((got = ::read(read_end.get(), buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR))) {
      if (got > 0) said.append(buffer, static_cast<size_t>(got));
    }
    if (said == "\n") return 0;
    while (!said.empty() && said.back() == '\n') said.pop_back();
    return fail(said.empty() ? "the daemon ended before the mount answered" : said);
  }
  ::setsid();
  [[maybe_unused]] const int changed = ::chdir("/");
  const Fd null(::open("/dev/null", O_RDWR));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null.get(), fd);
  log_to_syslog();
  *pipe_to_parent = std::move(write_end);
  return std::nullopt;
}

}  // namespace

int mount_home(const MountOptions& options) { return mount_home(options, real_system()); }

int take_over_home(int notes) { return take_over_home(notes, real_system()); }

int take_over_home(int notes, const Seams& seams) {
  Notes* known = Notes::map(notes, Notes::Purpose::going_on);
  if (known == nullptr) return fail("these notes are not of this version");
  (void)set_on_exec(OnExec::are_closed);
  const Mounted mounted(known->mounted.read());
  if (!mounted.options.foreground) log_to_syslog();
  Starter starter{Fd()};
  return supervised(mounted, seams, starter, *known);
}

int mount_home(const MountOptions& options, const Seams& seams) {
  for (const std::string& flag : options.flags) {
    if (!is_mount_flag(flag) && flag != "default_permissions") {
      return fail(fmt::format("unknown mount option '{}'", flag));
    }
  }
  for (const std::string& path : {options.source, options.mountpoint}) {
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0) {
      const char* advice =
          errno == ENOENT ? "; create it first (limactl does at its first start): mkdir -p" : "";
      const char* dead = errno == ENOTCONN ? "; a mount there has died: fusermount3 -u" : "";
      const std::string again = *advice != 0 || *dead != 0 ? " " + shell_quoted(path) : "";
      return fail(fmt::format("{}: {}{}{}{}", path, std::strerror(errno), advice, dead, again));
    }
    if (!S_ISDIR(st.st_mode)) return fail(fmt::format("{} is not a directory: name the Lima home", path));
  }
  const std::string source = resolved(options.source);
  const std::string mountpoint = resolved(options.mountpoint);
  if (const auto reason = reason_against_mount(source, mountpoint)) return fail(*reason);
  if (options.io_uring) {
    if (const auto reason = reason_against_uring()) return fail(*reason);
  }
  Fd root(::open(source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return fail(fmt::format("cannot open {}: {}", source, std::strerror(errno)));
  Fd pipe_to_parent;
  if (!options.foreground) {
    if (const auto status = into_background(&pipe_to_parent)) return *status;
  }
  set_descriptor_limit(DescriptorsFor::supervisor);
  Starter starter(std::move(pipe_to_parent));
  Mounted mounted(options);
  std::erase(mounted.options.flags, "default_permissions");
  mounted.source = source;
  mounted.mountpoint = mountpoint;
  mounted.root = root.get();
  if (const auto backing = mount_of(source)) mounted.backing_options = backing->super_options;
  Notes* notes = Notes::make();
  if (notes == nullptr) {
    return starter.fail_with(
        fmt::format("cannot have memory for the daemon's notes: {} (\"ulimit -f\" and \"ulimit -v\" show how "
                    "much a process may have)",
                    std::strerror(errno)));
  }
  if (!notes->mounted.write(mounted.words())) return starter.fail_with("the mount options are too long");
  (void)root.release();
  return supervised(mounted, seams, starter, *notes);
}

}  // namespace limaquota
