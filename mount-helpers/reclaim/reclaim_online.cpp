// reclaim of a running VM: its guest trims its filesystems. A VM that is paused at its limit cannot, so it is
// lent room for as long as that takes.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>

#include <optional>
#include <sstream>

#include "accounting/escape.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/guest/inside.hpp"
#include "mount-helpers/guest/kept_going.hpp"
#include "mount-helpers/guest/qmp.hpp"
#include "mount-helpers/programs/companion.hpp"
#include "mount-helpers/programs/guard.hpp"
#include "mount-helpers/reclaim/reclaim.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds look_again{500};
constexpr std::chrono::seconds ask_again{5};
constexpr std::chrono::seconds loan_margin{60};  // beyond the deadlines: it must not end before the work
constexpr int most_tries = 5;                    // to have it go on, before it is looked at again later
constexpr int trimmed_some = 64;                 // fstrim(8): some filesystems could not be trimmed

// The running guest: works in it, and keeps it going meanwhile.
class Guest {
 public:
  explicit Guest(const ReclaimRequest& request)
      : request_(request),
        name_(escape_name(request.vm.name)),
        kept_(request.home, request.vm,
              {request.loan, request.deadline * 3 + loan_margin, "--loan", nullptr, nullptr}) {}

  bool runs() const {
    Qmp qmp(request_.vm.qmp_socket());
    return guest_state(qmp) == GuestState::running;
  }

  // Throws Refusal where it cannot be kept going, QmpError where its QEMU does not answer.
  void keep_going() {
    bool was_lent = kept_.has_lent();
    Kept kept = kept_.look();
    for (int tries = 1; kept.guest == Kept::Guest::again && tries < most_tries; ++tries) {
      was_lent = true;
      kept = kept_.look();
    }
    switch (kept.guest) {
      case Kept::Guest::stands_still:
        throw Refusal(fmt::format("{} is {}: it cannot trim its disks", name_, to_string(kept.state)));
      case Kept::Guest::no_answer:
      case Kept::Guest::gone:
        throw QmpError(kept.why);
      case Kept::Guest::no_more_help:
        throw Refusal(
            fmt::format("{} {}; {}", name_, was_lent ? "paused again" : "is paused for space", kept.why));
      case Kept::Guest::goes_on:
      case Kept::Guest::again:
        break;
    }
  }

  // Runs a program in the guest; fails by Refusal where it does not end in time or the guest pauses too
  // often.
  Ended run(const std::string& title, const std::vector<std::string>& words) {
    std::vector<std::string> all = {"limactl", "shell", "--workdir", "/", request_.vm.name};
    all.insert(all.end(), words.begin(), words.end());
    Companion program(all, {}, {"LIMA_HOME=" + request_.home});
    // ssh, which limactl starts, would not notice that limactl is gone.
    const Guard end_all([group = program.group()] { ::kill(-group, SIGTERM); });
    Progress progress(fmt::format("{} {}: used", title, name_), std::nullopt);
    const auto until = Clock::now() + request_.deadline;
    while (program.runs(look_again)) {
      if (Clock::now() >= until) {
        throw Refusal(fmt::format("{}: {} did not end within {} s (--deadline)", name_, title,
                                  request_.deadline.count()));
      }
      const AccountFigures account = vm_figures(request_);
      progress.show(account.used);
      if (!kept_.was_refused(account) && Clock::now() < next_question_) continue;
      next_question_ = Clock::now() + ask_again;
      try {
        keep_going();
      } catch (const QmpError&) {
        // Another client's turn, or QEMU has ended, and the program in the guest ends too.
      }
    }
    return program.wait();
  }

  void end_loan() { kept_.end(); }
  bool was_lent() const { return kept_.has_lent(); }

 private:
  const ReclaimRequest& request_;
  const std::string name_;
  KeptGoing kept_;
  Clock::time_point next_question_;
};

constexpr const char* clean_script =
    "command -v apt-get >/dev/null && apt-get clean;"
    "find /var/log -type f '(' -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' ')' -delete;"
    "command -v journalctl >/dev/null && journalctl -q --vacuum-size=16M; true";

// False where the person says no.
bool ask_to_clean(const ReclaimRequest& request) {
  if (request.yes) return true;
  std::vector<std::string> escaped;
  for (const std::string& path : request.paths) escaped.push_back(escape_name(path));
  return confirm(
      fmt::format("In {}: apt-get clean, delete rotated logs, shrink the journal to 16 MiB{}{}. Go on?",
                  escape_name(request.vm.name), escaped.empty() ? "" : ", delete ", fmt::join(escaped, " ")));
}

void clean(const ReclaimRequest& request, Guest& guest) {
  std::vector<std::vector<std::string>> steps = {{"sudo", "sh", "-c", clean_script}};
  if (!request.paths.empty()) {
    steps.push_back({"sudo", "rm", "-rf", "--one-file-system", "--"});
    steps.back().insert(steps.back().end(), request.paths.begin(), request.paths.end());
  }
  for (const auto& words : steps) {
    const Ended ended = guest.run("clean", words);
    if (!ended.ok()) {
      throw Refusal(
          fmt::format("{}: cleaning: {}", escape_name(request.vm.name), escape_name(ended.complaint())));
    }
  }
}

void trim(const ReclaimRequest& request, Guest& guest, Reclaimed& result) {
  const Ended ended = guest.run("fstrim", {"sudo", "fstrim", "-av"});
  if (!ended.ok() && ended.status != trimmed_some) {
    throw Refusal(
        fmt::format("{}: fstrim: {}", escape_name(request.vm.name), escape_name(ended.complaint())));
  }
  std::istringstream lines(ended.out);
  for (std::string line; std::getline(lines, line);) {
    std::string escaped;  // a guest's text, but its blanks are harmless
    std::istringstream words(line);
    for (std::string word; words >> word;) escaped += (escaped.empty() ? "" : " ") + escape_name(word);
    if (!escaped.empty()) result.notes.push_back("guest: " + escaped);
  }
  if (ended.status == trimmed_some)
    result.notes.push_back("some of the guest's filesystems could not be trimmed");
}

}  // namespace

Reclaimed reclaim_online(const ReclaimRequest& request) {
  const std::string name = escape_name(request.vm.name);
  if (!request.vm.is_running()) {
    throw Refusal(
        fmt::format("{0} does not run: limaquota reclaim {0} --offline, or limactl start {0} first", name));
  }
  if (!find_program("limactl")) throw Refusal("there is no limactl in PATH, by which the guest is reached");
  const AccountFigures before = vm_figures(request);
  Reclaimed result{.way = "fstrim",
                   .used_before = before.used,
                   .used_after = before.used,
                   .would_free = Bytes(0),
                   .disks = {},
                   .notes = {}};
  Guest guest(request);
  if (request.dry_run) {
    if (!guest.runs()) {
      throw Refusal(fmt::format("{} is paused: its guest cannot be asked what it uses", name));
    }
    const InsideAnswer answer = look_inside(request.home, before);
    if (!answer.inside)
      throw Refusal(fmt::format("{} does not say what it uses: {}", name, escape_name(answer.why)));
    result.would_free = answer.inside->reclaimable;
    result.notes.push_back(
        "about: what the disks have allocated, less what the guest's files use; its filesystems' own tables "
        "stay");
    return result;
  }
  if (request.clean && !ask_to_clean(request)) throw Refusal("nothing was done");
  guest.keep_going();
  if (request.clean) clean(request, guest);
  trim(request, guest, result);
  const bool lent = guest.was_lent();
  guest.end_loan();
  const AccountFigures after = vm_figures(request);
  result.used_after = after.used;
  if (lent && after.writable.count() == 0) {
    result.notes.push_back(
        fmt::format("{0} is still full and pauses at its next write: limaquota set {0} SIZE", name));
  }
  return result;
}

}  // namespace limaquota
