#include "fs/limits/limit_follows.hpp"

#include <fcntl.h>

#include <algorithm>

#include "accounting/escape.hpp"
#include "accounting/mutex.hpp"
#include "fs/system/log.hpp"

namespace limaquota {

void LimitFollows::prepare(std::string_view from, std::string_view to) {
  const MutexLock lock(store_.files.mutex);
  if (unsaved_.empty()) store_.files.add_name(from, to);
}

void LimitFollows::stay(std::string_view from, std::string_view to) {
  const MutexLock lock(store_.files.mutex);
  if (!store_.forget_twin(to, from)) return;
  if (store_.files.is_one_file(from, to) && !store_.files.is_removed(to)) unsaved_.emplace(to);
}

void LimitFollows::follow(std::string_view from, std::string_view to) {
  {
    const MutexLock lock(store_.files.mutex);
    if (!store_.take_along(from, to)) return;
    if (!unsaved_.empty() || !store_.files.rename(from, to)) {
      unsaved_.emplace(from);
      unsaved_.emplace(to);
      save_unsaved();
      if (!unsaved_.empty()) {
        log_warning("the limit file of {} cannot follow to {} yet: tried again", escape_name(from),
                    escape_name(to));
      }
    }
  }
  if (store_.on_files_changed) store_.on_files_changed();
}

void LimitFollows::save_unsaved() {
  std::erase_if(unsaved_, [this](const std::string& name) REQUIRES(store_.files.mutex) {
    const auto text = store_.text(name);
    return text ? store_.files.write(name, *text).in_place : store_.files.is_removed(name);
  });
}

void LimitFollows::save() {
  {
    const MutexLock lock(store_.files.mutex);
    if (unsaved_.empty()) return;
    save_unsaved();
  }
  if (store_.on_files_changed) store_.on_files_changed();
}

bool LimitFollows::stands(const std::string& account) const {
  return backing_.sys().fstatat(backing_.root(), account.c_str(), AT_SYMLINK_NOFOLLOW).operator bool();
}

void LimitFollows::end_renames() {
  const MutexLock lock(store_.files.mutex);
  const std::vector<std::string> all = store_.names();
  for (const std::string& name : all) {
    if (stands(name) || store_.files.names_of(name) < 2) continue;
    const bool renamed = std::any_of(all.begin(), all.end(), [&](const std::string& other) {
      return other != name && stands(other) && store_.files.is_one_file(name, other);
    });
    if (renamed && store_.files.is_removed(name)) store_.forget(name);
  }
}

}  // namespace limaquota
