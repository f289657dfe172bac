#include "mount-helpers/guest/loan.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <utility>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/limit_file.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

// Held until it is closed, here and in what was forked from here.
Fd lock_lending(const std::string& home, const std::string& vm) {
  const std::string path = fmt::format("{}/{}/lima.yaml", home, vm);
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (file && errno == EWOULDBLOCK) {
    throw Refusal(fmt::format("another stop or reclaim lends room to {}: wait for its end", escape_name(vm)));
  }
  throw Refusal(fmt::format("cannot lock {}: {}", escape_name(path), std::strerror(errno)));
}

// Raises the loan until the disk line leaves `amount`, or nearly that, beyond what is taken: a larger limit
// has a larger control reserve, 1 % of it or, where it is small, half.
void make_fit(Limits& lent, Bytes taken, Bytes amount, int64_t now) {
  constexpr int enough_rounds = 16;  // each halves what is missing at least
  const Bytes wanted = plus_or_unlimited(taken, amount - Bytes(amount.count() / 16));
  for (int round = 0; round < enough_rounds; ++round) {
    const Bytes line = minus_or_zero(lent.effective_limit(now), lent.effective_control_reserve(now));
    lent.loan->amount = plus_or_unlimited(lent.loan->amount, minus_or_zero(wanted, line));
  }
}

}  // namespace

Lent::Lent(std::string home, std::string account, Bytes amount, std::chrono::seconds duration)
    : home_(std::move(home)), account_(std::move(account)), lock_(lock_lending(home_, account_)) {
  before_ = read_limits(home_, account_);
  had_file_ = has_limit_file(home_, account_);
  again(amount, duration);
}

void Lent::again(Bytes amount, std::chrono::seconds duration) {
  Limits lent = read_limits(home_, account_);
  const std::optional<Loan> in_force = std::exchange(lent.loan, std::nullopt);
  if (lent.limit.is_unlimited()) return;
  const int64_t now = std::time(nullptr);
  lent.loan = Loan{amount, now + duration.count()};
  const Snapshot snapshot = read_report(home_).snapshot;
  if (const AccountFigures* figures = find_account(snapshot, account_)) {
    make_fit(lent, figures->used + figures->reserved, amount, now);
  }
  if (in_force && in_force->until > now) {
    lent.loan->amount = std::max(lent.loan->amount, in_force->amount);
    lent.loan->until = std::max(lent.loan->until, in_force->until);
  }
  write_limits(home_, account_, lent);
  active_ = true;
}

void Lent::end() {
  if (!active_) return;
  active_ = false;
  Limits now = read_limits(home_, account_);  // somebody may have set another limit meanwhile
  now.loan = before_.loan;
  if (now.loan && now.loan->until <= std::time(nullptr)) now.loan.reset();
  if (!had_file_ && now == before_) {
    remove_limits(home_, account_);
  } else {
    write_limits(home_, account_, now);
  }
}

Lent::~Lent() {
  try {
    end();
  } catch (const std::exception& error) {
    warn(fmt::format("limaquota: the loan to {} ends by its time: {}", escape_name(account_), error.what()));
  }
}

}  // namespace limaquota
