// The limit files: the texts below `.quota`, kept at the same path in the backing tree, and what they put in
// force.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/ledger.hpp"
#include "accounting/limits.hpp"
#include "fs/backing/backing.hpp"

namespace limaquota {

// A limit file is named as the account it limits: "<vm>", "_disks/<name>", "_shared"; or "_default" (for VMs
// without a file) or "_host".
//
// Thread safety: all functions may be called from any thread. `files_mutex_` is held over the system calls
// that make a change durable; `mutex_` guards the texts and is not, so reading never waits for the disk.
class LimitStore {
 public:
  LimitStore(const Backing& backing, Ledger& ledger) : backing_(backing), ledger_(ledger) {}

  // Reads everything that is there. What cannot be parsed is reported, kept, and the default put in force.
  Result<void> load();

  // True for a name whose file is a limit: one that exists, a special name, or the name of an account.
  bool is_limit(std::string_view name) const;
  std::optional<std::string> text(std::string_view name) const;
  std::vector<std::string> names() const;
  bool is_damaged(std::string_view name) const;

  // What the text would put in force, without doing so.
  std::optional<ParseError> check(std::string_view name, std::string_view text) const;
  // Durable and in force when it returns. EINVAL for a text that does not parse: nothing has changed then.
  Result<void> put(std::string_view name, std::string_view text);
  // The file goes. Where `soon`, its limits stay in force for some seconds more: an editor that renames a
  // file away and writes it anew must not leave a VM without a limit between.
  Result<void> remove(std::string_view name, bool soon = false);
  // Before an account is renamed, and its limit is to follow: its file is there under both names until then,
  // so that the host may lose its power at any moment and no limit is lost.
  void prepare_to_follow(std::string_view from, std::string_view to);
  // The account was renamed: the file of `from` becomes that of `to`, unless there is none, or another was
  // set for `to`.
  void follow(std::string_view from, std::string_view to);
  // The account was not renamed after all.
  void stay(std::string_view from, std::string_view to);

  // After load, where no worker served before: the host may have lost its power while an account was renamed.
  void end_renames();
  // Puts the limits of an account in force: its own file, else the default.
  void apply(std::string_view account);
  // Tries again what follow could not write.
  void save();
  // Ends loans that are over; told the wall clock in Unix seconds.
  void tick(int64_t now);
  // Bytes that the limit files occupy in the backing tree changed: called with no lock held.
  std::function<void()> on_files_changed;

 private:
  struct Entry {
    std::string text;
    Limits limits;
    Bytes host_reserve;
    bool damaged = false;
  };
  Parsed<Entry> parse(std::string_view name, std::string_view text) const;
  Limits limits_of(std::string_view account, bool* from_file, bool* damaged) const;
  void in_force(std::string_view name);
  bool remove_file(std::string_view name) const;  // true where it is not there any more
  Result<struct stat> stat_file(std::string_view name) const;
  bool is_one_file(std::string_view a, std::string_view b) const;
  bool move_file(std::string_view from, std::string_view to);
  void save_unsaved();
  // `*renamed`: the file holds the new text, whatever came after.
  Result<void> write_file(std::string_view name, std::string_view text, bool* renamed);
  Result<void> put_locked(std::string_view name, std::string_view text);
  Result<Fd> directory(std::string_view name, std::string* file, bool create) const;
  Result<void> load_directory(int dir, std::string_view prefix);

  const Backing& backing_;
  Ledger& ledger_;
  std::mutex files_mutex_;
  std::set<std::string, std::less<>>
      unsaved_;  // guarded by files_mutex_: files that are not what `entries_` says
  mutable std::mutex mutex_;
  // guarded by mutex_
  std::map<std::string, Entry, std::less<>> entries_;
  // Removed files whose limits end then.
  std::map<std::string, std::chrono::steady_clock::time_point, std::less<>> ending_;
};

}  // namespace limaquota
