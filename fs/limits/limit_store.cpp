#include "fs/limits/limit_store.hpp"

#include <cerrno>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {
constexpr auto editor_patience = std::chrono::seconds(5);
}  // namespace

Parsed<LimitStore::Entry> LimitStore::parse(std::string_view name, std::string_view text) const {
  Entry entry;
  if (name == host_name) {
    const auto reserve = parse_host_reserve(text);
    if (const auto* error = std::get_if<ParseError>(&reserve)) return *error;
    entry.host_reserve = std::get<Bytes>(reserve);
    entry.text = host_reserve_text(entry.host_reserve);
    if (!is_lone_size(text)) entry.text = std::string(text);
    return entry;
  }
  Limits current;
  {
    const MutexLock lock(mutex_);
    if (const auto found = entries_.find(name); found != entries_.end()) current = found->second.limits;
  }
  const auto limits = parse_limits(text, current);
  if (const auto* error = std::get_if<ParseError>(&limits)) return *error;
  entry.limits = std::get<Limits>(limits);
  // A lone size keeps what the file says besides, so the file then says all of it.
  entry.text = is_lone_size(text) ? limits_text(entry.limits) : std::string(text);
  if (!entry.text.ends_with('\n')) entry.text += '\n';
  return entry;
}

void LimitStore::take_loaded(const std::string& name, const Result<std::string>& text) {
  std::string why = "cannot be read";
  if (text) {
    auto parsed = parse(name, *text);
    if (auto* entry = std::get_if<Entry>(&parsed)) {
      const MutexLock lock(mutex_);
      entries_[name] = std::move(*entry);
      return;
    }
    why = std::get<ParseError>(parsed).message;
  }
  log_warning("limit file .quota/{} is damaged ({}): the default holds until it is written anew",
              escape_name(name), why);
  const MutexLock lock(mutex_);
  Entry& entry = entries_[name];
  entry.damaged = true;
  entry.host_reserve = default_host_reserve;
  if (text) entry.text = *text;
}

Result<void> LimitStore::load() {
  const auto read = files.read_all(
      [this](const std::string& name, const Result<std::string>& text) { take_loaded(name, text); });
  if (read) put_in_force(host_name);
  return read;
}

bool LimitStore::is_limit(std::string_view name) const {
  if (name == host_name || name == default_name || name == shared_account) return true;
  if (ledger_.find(name)) return true;
  const MutexLock lock(mutex_);
  return entries_.contains(name);
}

std::optional<std::string> LimitStore::text(std::string_view name) const {
  const MutexLock lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  return found->second.text;
}

std::vector<std::string> LimitStore::names() const {
  const MutexLock lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

std::optional<ParseError> LimitStore::check(std::string_view name, std::string_view text) const {
  const auto parsed = parse(name, text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  return std::nullopt;
}

// Limit files are exempt from limits, but not from a quarter of the host reserve.
std::optional<Reservation> LimitStore::reserve_for(std::string_view text) {
  const Claims claims{{ledger_.open(shared_account), backing_.metadata(text.size())}};
  const auto reserve = [&] {
    return ledger_.reserve(claims, Line::exempt, backing_.host_sample(ledger_)).given;
  };
  auto reservation = reserve();
  return !reservation && backing_.sync_host(ledger_) ? reserve() : std::move(reservation);
}

Result<void> LimitStore::put_locked(std::string_view name, std::string_view text) {
  auto parsed = parse(name, text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) {
    log_info("refused for .quota/{}: {}", escape_name(name), error->message);
    return Errno{EINVAL};
  }
  Entry& entry = std::get<Entry>(parsed);
  const auto reservation = reserve_for(entry.text);  // until it is written
  if (!reservation) return Errno{ENOSPC};
  const auto written = files.write(name, entry.text);
  // What is in force is what the file says, even where its durability could not be had.
  if (!written.in_place) return written.durable;
  {
    const MutexLock lock(mutex_);
    entries_[std::string(name)] = std::move(entry);
  }
  put_in_force(name);
  return written.durable;
}

Result<void> LimitStore::put(std::string_view name, std::string_view text) {
  Result<void> result;
  {
    const MutexLock lock(files.mutex);
    result = put_locked(name, text);
  }
  if (on_files_changed) on_files_changed();
  return result;
}

Result<void> LimitStore::remove(std::string_view name) {
  {
    const MutexLock lock(files.mutex);
    if (const auto removed = files.remove(name); !removed) return removed;
    forget(name);
    put_in_force(name);
  }
  if (on_files_changed) on_files_changed();
  return {};
}

Result<void> LimitStore::remove_soon(std::string_view name) {
  {
    const MutexLock lock(files.mutex);
    if (const auto removed = files.remove(name); !removed) return removed;
    const MutexLock texts(mutex_);
    if (const auto found = entries_.find(name); found != entries_.end()) entries_.erase(found);
    ending_[std::string(name)] = std::chrono::steady_clock::now() + editor_patience;
  }
  if (on_files_changed) on_files_changed();
  return {};
}

void LimitStore::forget(std::string_view name) {
  const MutexLock lock(mutex_);
  if (const auto found = entries_.find(name); found != entries_.end()) entries_.erase(found);
}

bool LimitStore::forget_twin(std::string_view name, std::string_view twin) {
  {
    const MutexLock lock(mutex_);
    const auto own = entries_.find(name);
    const auto other = entries_.find(twin);
    if (own != entries_.end() && (other == entries_.end() || other->second.text != own->second.text))
      return false;
    if (own != entries_.end()) entries_.erase(own);
  }
  put_in_force(name);
  return true;
}

bool LimitStore::take_along(std::string_view from, std::string_view to) {
  {
    const MutexLock lock(mutex_);
    const auto source = entries_.find(from);
    const auto target = entries_.find(to);
    if (source == entries_.end()) return false;
    if (target != entries_.end() && target->second.text != source->second.text) return false;
    entries_[std::string(to)] = std::move(source->second);
    entries_.erase(source);
  }
  put_in_force(from);
  put_in_force(to);
  return true;
}

LimitStore::InForce LimitStore::in_force_for(std::string_view account) const {
  const MutexLock lock(mutex_);
  InForce now;
  if (is_vm_name(account)) {
    if (const auto found = entries_.find(default_name); found != entries_.end()) {
      now.limits = found->second.limits;
      now.damaged = found->second.damaged;
    }
  }
  const auto found = entries_.find(account);
  if (found == entries_.end()) return now;
  now.from = Ledger::LimitsFrom::own_file;
  now.damaged = found->second.damaged;
  if (!now.damaged) now.limits = found->second.limits;
  return now;
}

void LimitStore::apply(std::string_view account) {
  const auto id = ledger_.find(account);
  if (!id) return;
  const InForce now = in_force_for(account);
  ledger_.set_limits(*id, now.limits, now.from);
  ledger_.set_damaged(*id, now.damaged);
}

void LimitStore::put_in_force(std::string_view name) {
  if (name == host_name) {
    Bytes reserve = default_host_reserve;
    {
      const MutexLock lock(mutex_);
      if (const auto found = entries_.find(host_name); found != entries_.end())
        reserve = found->second.host_reserve;
    }
    ledger_.set_host_reserve(reserve);
  } else if (name == default_name) {
    for (const std::string& account : ledger_.names()) apply(account);
  } else {
    apply(name);
  }
}

void LimitStore::end_loan(const std::string& name, int64_t now) {
  Limits limits;
  {
    const MutexLock texts(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end() || !found->second.limits.loan || found->second.limits.loan->until > now)
      return;
    limits = found->second.limits;
    limits.loan.reset();
    found->second.limits = limits;  // over, whether or not the file can be written now
    found->second.text = limits_text(limits);
  }
  put_in_force(name);
  if (!files.write(name, limits_text(limits)).durable) {
    log_warning("the loan of {} is over, but its limit file cannot be written", escape_name(name));
  }
}

void LimitStore::tick(int64_t now) {
  std::vector<std::string> ended;
  std::vector<std::string> removed;
  {
    const MutexLock lock(mutex_);
    for (const auto& [name, when] : ending_) {
      if (when <= std::chrono::steady_clock::now()) removed.push_back(name);
    }
    for (const std::string& name : removed) ending_.erase(name);
    for (const auto& [name, entry] : entries_) {
      if (entry.limits.loan && entry.limits.loan->until <= now) ended.push_back(name);
    }
  }
  for (const std::string& name : removed) put_in_force(name);
  if (ended.empty()) return;
  {
    const MutexLock lock(files.mutex);
    for (const std::string& name : ended) end_loan(name, now);
  }
  if (on_files_changed) on_files_changed();
}

}  // namespace limaquota
