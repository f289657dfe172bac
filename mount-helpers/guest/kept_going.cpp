#include "mount-helpers/guest/kept_going.hpp"

#include <fmt/core.h>

#include <utility>

#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/guest/resume.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {

using Guest = Kept::Guest;

KeptGoing::KeptGoing(std::string home, LimaVm vm, Terms terms)
    : home_(std::move(home)), vm_(std::move(vm)), terms_(std::move(terms)), report_(home_) {}

std::optional<AccountFigures> KeptGoing::figures() {
  const Snapshot snapshot = report_.read(terms_.may_go_on).snapshot;
  const AccountFigures* account = find_account(snapshot, vm_.name);
  return account == nullptr ? std::nullopt : std::optional(*account);
}

Kept KeptGoing::look(std::chrono::milliseconds deadline) {
  const std::optional<AccountFigures> account = figures();
  const GuestAnswer answer = ask_guest(vm_.qmp_socket(), GuestMay::only_answer, deadline);
  if (answer.reached == GuestAnswer::Reached::silent) return {Guest::no_answer, {}, answer.why};
  if (answer.reached == GuestAnswer::Reached::nobody) return {Guest::gone, {}, answer.why};
  if (answer.is_paused()) return help();
  if (answer.state != GuestState::running) return {Guest::stands_still, answer.state, {}};
  // A write may be refused a moment before its guest is paused: so not at the first look.
  if (account && std::exchange(seen_, account->refused_writes) == account->refused_writes) refused_ = seen_;
  return {Guest::goes_on, answer.state, {}};
}

// The guest is paused for space.
Kept KeptGoing::help() {
  Kept kept{Guest::no_more_help, GuestState::no_space, {}};
  const unsigned loans_before = loans_;
  Snapshot snapshot = report_.read(terms_.may_go_on).snapshot;
  const AccountFigures* account = find_account(snapshot, vm_.name);
  const uint64_t refused = account == nullptr ? 0 : account->refused_writes;
  if (account != nullptr) {
    if (account->writable < terms_.loan && loans_ < most_loans) {
      lend();
      snapshot = report_.read(terms_.may_go_on).snapshot;
      account = find_account(snapshot, vm_.name);
    }
    if (!has_room(account)) {
      kept.why = why_no_room(*account, snapshot.host);
      return kept;
    }
  }
  const GuestAnswer answer = ask_guest(vm_.qmp_socket(), GuestMay::go_on);
  kept.why = answer.why;
  if (answer.reached == GuestAnswer::Reached::silent) kept.guest = Guest::no_answer;
  if (answer.reached == GuestAnswer::Reached::nobody) kept.guest = Guest::gone;
  if (answer.reached != GuestAnswer::Reached::yes) return kept;
  refused_ = refused;
  if (answer.paused_again) kept.why = why_paused_again(loans_before);
  if (kept.why.empty()) kept.guest = answer.paused_again ? Guest::again : Guest::goes_on;
  return kept;
}

// Empty where another try may help.
std::string KeptGoing::why_paused_again(unsigned loans_before) {
  if (loans_ == most_loans) {
    return fmt::format(
        "loans of {} are used up: lend more ({} SIZE), or raise its limit (limaquota set {} SIZE)",
        format_size(terms_.loan), terms_.option, shell_quoted(vm_.name));
  }
  const std::optional<AccountFigures> account = figures();
  const bool would_be_lent_more = account && account->writable < terms_.loan;
  if (loans_ > loans_before || would_be_lent_more) return {};
  return fmt::format(
      "it has room here and is paused again: is a disk of it on another filesystem, which is full, or its "
      "write larger than {} ({} SIZE)?",
      format_size(terms_.loan), terms_.option);
}

void KeptGoing::lend() {
  if (lent_) {
    lent_->again(terms_.loan, terms_.duration);
  } else {
    lent_.emplace(home_, vm_.name, terms_.loan, terms_.duration);
    guard_.emplace([this] { lent_->end(); });
  }
  ++loans_;
  if (lent_->is_active() && terms_.on_lent) terms_.on_lent();
}

bool KeptGoing::end() {
  if (!lent_ || !lent_->is_active()) return false;
  lent_->end();
  return true;
}

}  // namespace limaquota
