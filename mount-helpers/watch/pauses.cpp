#include "mount-helpers/watch/pauses.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <utility>

#include "accounting/escape.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr unsigned asks_after_a_change = 3;
constexpr std::chrono::seconds between_asks{30};
constexpr std::chrono::seconds between_resumes{60};
constexpr std::chrono::seconds after_silence{10};
constexpr std::chrono::milliseconds deadline{1000};
constexpr Bytes least_room = 256_MiB;

}  // namespace

bool WatchPauses::must_ask(Suspect& suspect, const AccountFigures& account, Clock::time_point now) const {
  const bool refused = account.refused_writes > suspect.refused;  // they begin at 0 again with each mount
  const bool changed = account.limit != suspect.limit || account.used != suspect.used;
  suspect.refused = account.refused_writes;
  suspect.limit = account.limit;
  suspect.used = account.used;
  if (refused || (suspect.paused && changed)) suspect.asks = asks_after_a_change;
  const bool no_room = account.state == AccountState::full || account.state == AccountState::host_full ||
                       account.state == AccountState::over;
  const bool again = suspect.paused || (no_room && account.refused_writes > 0);
  return suspect.asks > 0 || (again && now >= suspect.next_ask) || may_resume(suspect, account, now);
}

bool WatchPauses::may_resume(const Suspect& suspect, const AccountFigures& account, Clock::time_point now) {
  const Bytes part = account.limit.is_unlimited() ? Bytes(0) : Bytes(account.limit.count() / 100);
  return suspect.paused && now >= suspect.may_resume && account.writable >= std::max(least_room, part);
}

void WatchPauses::learn(Suspect& suspect, const AccountFigures& account, const HostFigures& host,
                        const GuestAnswer& answer, Clock::time_point now, std::vector<Event>& events) {
  suspect.next_ask = now + between_asks;
  if (suspect.asks > 0) --suspect.asks;
  if (answer.reached == GuestAnswer::Reached::silent) {
    if (!suspect.told_silent) {
      warn(fmt::format("limaquota: {} may be paused for space; {}", escape_name(account.name), answer.why));
    }
    suspect.told_silent = true;
    suspect.may_resume = std::max(suspect.may_resume, now + after_silence);
    return;
  }
  suspect.told_silent = false;
  const bool was_paused = std::exchange(suspect.paused, answer.is_paused());
  if (suspect.paused) suspect.asks = 0;
  if (suspect.paused && !was_paused) events.push_back(make_event(EventKind::paused, account, host));
  if (answer.continued) suspect.may_resume = now + between_resumes;
  if (answer.continued && !answer.paused_again) suspect.paused = false;
  // One that has ended, or is paused by hand, does not go on.
  const bool goes_on = answer.continued ||
                       (answer.reached == GuestAnswer::Reached::yes && answer.state == GuestState::running);
  if (was_paused && !suspect.paused && goes_on) {
    events.push_back(make_event(EventKind::resumed, account, host));
  }
}

std::vector<Event> WatchPauses::look(const Snapshot& snapshot, Clock::time_point now) {
  std::erase_if(suspects_, [&](const auto& entry) { return find_account(snapshot, entry.first) == nullptr; });
  std::vector<std::pair<const AccountFigures*, std::future<GuestAnswer>>> asked;
  for (const AccountFigures& account : snapshot.accounts) {
    if (!is_vm(account)) continue;
    Suspect& suspect = suspects_[account.name];
    if (!must_ask(suspect, account, now)) continue;
    asked.emplace_back(
        &account,
        std::async(std::launch::async, ask_guest, LimaVm{account.name, home_ / account.name}.qmp_socket(),
                   may_resume(suspect, account, now) ? GuestMay::go_on : GuestMay::only_answer, deadline));
  }
  std::vector<Event> events;
  for (auto& [account, answer] : asked) {
    learn(suspects_[account->name], *account, snapshot.host, answer.get(), now, events);
  }
  return events;
}

}  // namespace limaquota
