// The limits: the texts of the limit files, in memory, and what they put in force in the ledger.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/ledger.hpp"
#include "accounting/limits.hpp"
#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/limits/limit_files.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread. The mutex of the files is held over the system
// calls that make a change durable; `mutex_` guards the texts and is not, so reading never waits for the
// disk.
class LimitStore {
 public:
  LimitStore(const Backing& backing, Ledger& ledger, LimitFiles& limit_files)
      : files(limit_files), backing_(backing), ledger_(ledger) {}

  LimitFiles& files;

  // Reads everything that is there. What cannot be parsed is reported, kept, and the default put in force.
  Result<void> load();

  // True for a name whose file is a limit: one that exists, a special name, or the name of an account.
  bool is_limit(std::string_view name) const;
  std::optional<std::string> text(std::string_view name) const;
  std::vector<std::string> names() const;

  // What the text would put in force, without doing so.
  std::optional<ParseError> check(std::string_view name, std::string_view text) const;
  // Durable and in force when it returns. EINVAL for a text that does not parse: nothing has changed then.
  Result<void> put(std::string_view name, std::string_view text);
  // The file goes, and its limits with it.
  Result<void> remove(std::string_view name);
  // The same, but its limits stay in force for some seconds more: an editor that renames a file away and
  // writes it anew must not leave a VM without a limit between.
  Result<void> remove_soon(std::string_view name);

  // --- for an account that is renamed (fs/limits/limit_follows.hpp) ---
  // The text of `from` becomes that of `to`, in force at once. False where `from` has none, or where another
  // was set for `to` meanwhile; one with the same text is what was prepared before a crash.
  bool take_along(std::string_view from, std::string_view to) REQUIRES(files.mutex);
  // The text of `name`, which is that of the file `twin` or of none, is forgotten. False where it is another.
  bool forget_twin(std::string_view name, std::string_view twin) REQUIRES(files.mutex);
  void forget(std::string_view name) REQUIRES(files.mutex);

  // Puts the limits of an account in force: its own file, else the default.
  void apply(std::string_view account);
  // Ends loans that are over; told the wall clock in Unix seconds.
  void tick(int64_t now);
  // Bytes that the limit files occupy in the backing tree changed: called without the mutex of the files.
  std::function<void()> on_files_changed;

 private:
  struct Entry {
    std::string text;
    Limits limits;
    Bytes host_reserve;
    bool damaged = false;
  };
  // What holds for an account, and where from.
  struct InForce {
    Limits limits;
    Ledger::LimitsFrom from = Ledger::LimitsFrom::default_file;
    bool damaged = false;
  };
  Parsed<Entry> parse(std::string_view name, std::string_view text) const;
  void take_loaded(const std::string& name, const Result<std::string>& text);
  InForce in_force_for(std::string_view account) const;
  void put_in_force(std::string_view name);
  Result<void> put_locked(std::string_view name, std::string_view text) REQUIRES(files.mutex);
  std::optional<Reservation> reserve_for(std::string_view text);
  void end_loan(const std::string& name, int64_t now) REQUIRES(files.mutex);

  const Backing& backing_;
  Ledger& ledger_;
  mutable Mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_ GUARDED_BY(mutex_);
  // Removed files whose limits end then.
  std::map<std::string, std::chrono::steady_clock::time_point, std::less<>> ending_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
