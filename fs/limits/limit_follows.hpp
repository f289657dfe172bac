// A limit follows what is renamed, in three steps, so that neither a crash nor a power cut loses it: its file
// gets the new name as a second one, the VM is renamed, the old name goes. (Which limit follows what:
// fs/tree/limit_along.hpp.)
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "fs/backing/backing.hpp"
#include "fs/limits/limit_store.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class LimitFollows {
 public:
  LimitFollows(const Backing& backing, LimitStore& store) : backing_(backing), store_(store) {}

  // Before an account is renamed, and its limit is to follow: its file is there under both names until then.
  void prepare(std::string_view from, std::string_view to);
  // The account was renamed: the file of `from` becomes that of `to`, unless there is none, or another was
  // set for `to`. The limit goes along at once; its file as soon as that can be done.
  void follow(std::string_view from, std::string_view to);
  // The account was not renamed after all.
  void stay(std::string_view from, std::string_view to);
  // Tries again what could not be written.
  void save();
  // After the limits were loaded, where no worker served before: the host may have lost its power while an
  // account was renamed. Of two names of one limit file, the one that stands for nothing goes, or it would be
  // in force for what gets that name some day.
  void end_renames();

 private:
  bool stands(const std::string& account) const;
  void save_unsaved() REQUIRES(store_.files.mutex);

  const Backing& backing_;
  LimitStore& store_;
  std::set<std::string, std::less<>> unsaved_ GUARDED_BY(store_.files.mutex);  // not what the store says
};

}  // namespace limaquota
