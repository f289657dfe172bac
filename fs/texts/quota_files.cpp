#include "fs/texts/quota_files.hpp"

#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {
namespace {
bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\n") == std::string_view::npos; }

// Numbers and texts one after the other, as this very program reads them again.
struct Texts {
  std::string all;
  size_t at = 0;

  void put(uint64_t number) { all.append(reinterpret_cast<const char*>(&number), sizeof number); }
  void put(std::string_view text) {
    put(uint64_t{text.size()});
    all.append(text);
  }
  uint64_t number() {
    uint64_t number = 0;
    if (all.size() - at < sizeof number) return 0;
    std::memcpy(&number, all.data() + at, sizeof number);
    at += sizeof number;
    return number;
  }
  bool ended() const { return at == all.size(); }
  std::string text() {
    const size_t size = std::min<size_t>(number(), all.size() - at);
    at += size;
    return all.substr(at - size, size);
  }
};
}  // namespace

class QuotaFiles::Keeping {
 public:
  explicit Keeping(const QuotaFiles& files) REQUIRES(files.mutex_) : files_(files) {}
  Keeping(const Keeping&) = delete;
  Keeping& operator=(const Keeping&) = delete;
  ~Keeping() { files_.keep(); }

 private:
  const QuotaFiles& files_;
};

QuotaFiles::QuotaFiles(const Backing& backing, LimitStore& store, Notes& notes)
    : backing_(backing), store_(store), notes_(notes) {
  take_over();
}

void QuotaFiles::keep() const {
  Texts texts;
  for (const auto& [path, editing] : editing_) {
    texts.put(path);
    texts.put(editing.text);
    texts.put(editing.owner);
    texts.put(uint64_t{editing.pending});
    texts.put(uint64_t{editing.writers.size()});
    for (const uint64_t handle : editing.writers) texts.put(handle);
  }
  texts.put("");
  for (const auto& [path, text] : scratch_) {
    texts.put(path);
    texts.put(text);
  }
  texts.put("");
  notes_.quota_texts.write(texts.all);
}

void QuotaFiles::take_over() {
  const MutexLock lock(mutex_);
  Texts texts{notes_.quota_texts.read()};
  for (std::string path = texts.text(); !path.empty(); path = texts.text()) {
    Editing& editing = editing_[path];
    editing.text = texts.text();
    editing.owner = texts.number();
    editing.pending = texts.number() != 0;
    for (uint64_t left = texts.number(); left > 0 && !texts.ended(); --left)
      editing.writers.insert(texts.number());
  }
  for (std::string path = texts.text(); !path.empty(); path = texts.text()) scratch_[path] = texts.text();
}

std::string QuotaFiles::current(std::string_view path) const {
  // What is in force is shown as it is kept, also before its writer has closed the file.
  const auto editing = editing_.find(path);
  if (editing != editing_.end() && editing->second.pending && !is_blank(editing->second.text))
    return editing->second.text;
  if (const auto found = scratch_.find(path); found != scratch_.end()) return found->second;
  return store_.text(path).value_or("");
}

bool QuotaFiles::exists(std::string_view path) const {
  return editing_.contains(path) || scratch_.contains(path) || store_.text(path).has_value();
}

bool QuotaFiles::is_file(std::string_view path) const {
  const MutexLock lock(mutex_);
  return exists(path);
}

std::vector<std::string> QuotaFiles::names(std::string_view directory) const {
  const std::string prefix = directory.empty() ? "" : std::string(directory) + "/";
  std::vector<std::string> all = store_.names();
  {
    const MutexLock lock(mutex_);
    for (const auto& [path, text] : scratch_) all.push_back(path);
    for (const auto& [path, editing] : editing_) all.push_back(path);
  }
  std::vector<std::string> names;
  if (directory.empty()) names.emplace_back(disks_directory);
  for (const std::string& path : all) {
    if (!path.starts_with(prefix)) continue;
    const std::string rest = path.substr(prefix.size());
    if (rest.find('/') == std::string::npos) names.push_back(rest);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::string QuotaFiles::text(std::string_view path) const {
  const MutexLock lock(mutex_);
  return current(path);
}

std::optional<struct stat> QuotaFiles::backing_stat(std::string_view path) const {
  const std::string below = std::string(quota_directory) + (path.empty() ? "" : "/") + std::string(path);
  const auto st = backing_.sys().fstatat(backing_.root(), below.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return std::nullopt;
  return *st;
}

Result<void> QuotaFiles::create(std::string_view path) {
  const bool limit = store_.is_limit(path);
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (limit) {
    editing_.try_emplace(std::string(path));
    return {};
  }
  if (scratch_.size() >= most_scratch_files) return Errno{ENOSPC};
  scratch_.try_emplace(std::string(path));
  return {};
}

void QuotaFiles::open_for_writing(std::string_view path, uint64_t handle) {
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (scratch_.contains(path)) return;
  const std::string text = current(path);
  const auto [entry, is_new] = editing_.try_emplace(std::string(path));
  if (is_new) entry->second.text = text;
  entry->second.writers.insert(handle);
}

Result<void> QuotaFiles::set_size(std::string_view path, uint64_t size) {
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (const auto found = scratch_.find(path); found != scratch_.end()) {
    if (size > most_scratch_bytes) return Errno{EFBIG};
    found->second.resize(size);
    return {};
  }
  if (size > largest_limit_text) return Errno{EFBIG};
  const std::string text = current(path);
  const auto [entry, is_new] = editing_.try_emplace(std::string(path));
  if (is_new) entry->second.text = text;
  entry->second.text.resize(size);
  entry->second.pending = true;
  // Truncated by path, with nobody to close it: nothing was written, so the old text stays.
  if (entry->second.writers.empty()) editing_.erase(entry);
  return {};
}

Result<size_t> QuotaFiles::write(std::string_view path, std::string_view data, uint64_t offset,
                                 uint64_t owner) {
  const auto put_in = [&](const std::string& old) {
    std::string text = old;
    if (text.size() < offset + data.size()) text.resize(offset + data.size());
    std::copy(data.begin(), data.end(), text.begin() + static_cast<std::ptrdiff_t>(offset));
    return text;
  };
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (const auto found = scratch_.find(path); found != scratch_.end()) {
    size_t others = 0;
    for (const auto& [name, text] : scratch_) others += &text == &found->second ? 0 : text.size();
    if (offset > most_scratch_bytes || others + offset + data.size() > most_scratch_bytes)
      return Errno{ENOSPC};
    found->second = put_in(found->second);
    return data.size();
  }
  if (offset > largest_limit_text || offset + data.size() > largest_limit_text) return Errno{EINVAL};
  const auto entry = editing_.find(path);
  if (entry == editing_.end()) return Errno{EBADF};
  const std::string text = put_in(entry->second.text);
  entry->second.owner = owner;
  if (!whole(text)) {
    entry->second.text = text;
    entry->second.pending = true;
    return data.size();
  }
  // Held over the system calls of `put`: two writers of one limit take turns. Reading `.usage` needs no such
  // lock.
  const auto put = store_.put(path, text);
  if (!put) {
    // Nothing of a refused text may be in force, at close neither.
    entry->second.text = store_.text(path).value_or("");
    entry->second.pending = false;
    return put.error();
  }
  entry->second.text = text;
  entry->second.pending = false;
  return data.size();
}

Result<void> QuotaFiles::flush(std::string_view path, uint64_t owner) {
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  const auto entry = editing_.find(path);
  if (entry == editing_.end() || entry->second.owner != owner) return {};
  return put_pending(path, entry->second);
}

Result<void> QuotaFiles::put_pending(std::string_view path, Editing& editing) {
  // An empty text stands for nothing: a shell truncates, closes a duplicate, and writes only then.
  if (!editing.pending || is_blank(editing.text)) return {};
  editing.pending = false;
  const auto result = store_.put(path, editing.text);
  if (!result) editing.text = store_.text(path).value_or("");
  return result;
}

void QuotaFiles::closed(std::string_view path, uint64_t handle) {
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  const auto entry = editing_.find(path);
  if (entry == editing_.end()) return;
  entry->second.writers.erase(handle);
  // The last close may be that of a process that did not write.
  if (entry->second.writers.empty()) (void)put_pending(path, entry->second);
  if (entry->second.writers.empty()) editing_.erase(entry);
}

Result<void> QuotaFiles::remove(std::string_view path) {
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (const auto found = scratch_.find(path); found != scratch_.end()) {
    scratch_.erase(found);
    return {};
  }
  const bool was_open = editing_.erase(std::string(path)) > 0;
  const auto removed = store_.remove(path);
  return was_open && !removed && removed.error().value == ENOENT ? Result<void>() : removed;
}

Result<void> QuotaFiles::rename(std::string_view from, std::string_view to, unsigned flags) {
  if (from == to) return {};
  const bool to_limit = store_.is_limit(to);
  const MutexLock lock(mutex_);
  const Keeping keeping(*this);
  if (!exists(from)) return Errno{ENOENT};
  if ((flags & RENAME_NOREPLACE) != 0 && exists(to)) return Errno{EEXIST};
  const std::string text = current(from);
  const bool from_scratch = scratch_.contains(from);
  if (to_limit) {
    const auto put = store_.put(to, text);
    if (!put) return put;
    editing_.erase(std::string(to));
  } else {
    if (scratch_.size() >= most_scratch_files) return Errno{ENOSPC};
    scratch_[std::string(to)] = text;
  }
  if (from_scratch) {
    scratch_.erase(std::string(from));
    return {};
  }
  editing_.erase(std::string(from));
  return to_limit ? store_.remove(from) : store_.remove_soon(from);
}

void QuotaFiles::promote(std::string_view account) {
  std::string text;
  {
    const MutexLock lock(mutex_);
    const auto found = scratch_.find(account);
    if (found == scratch_.end()) return;
    text = found->second;
    if (store_.check(account, text)) return;
    const Keeping keeping(*this);
    scratch_.erase(found);
  }
  (void)!store_.put(account, text);
}

}  // namespace limaquota
