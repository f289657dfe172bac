#include "fs/limits/limit_store.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "fs/system/log.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {
namespace {

constexpr std::string_view host_name = "_host";
constexpr std::string_view default_name = "_default";
// Not a name of any account, so that a crash while one is being written leaves nothing that counts.
constexpr std::string_view temporary_name = ".limaquota-new";
constexpr size_t largest_text = 4096;
constexpr auto editor_patience = std::chrono::seconds(5);

bool has_disk_prefix(std::string_view name) {
  return name.starts_with(disks_directory) && name.size() > disks_directory.size() &&
         name[disks_directory.size()] == '/';
}

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
    const std::lock_guard lock(mutex_);
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

Result<void> LimitStore::load_directory(int dir, std::string_view prefix) {
  Sys& sys = backing_.sys();
  const auto files = read_names(sys, dir);
  if (!files) return files.error();
  for (const std::string& file : *files) {
    if (file == temporary_name) (void)!sys.unlinkat(dir, file.c_str(), 0);
    if (file.starts_with('.')) continue;
    if (prefix.empty() && file == disks_directory) continue;
    const std::string name = std::string(prefix) + file;
    std::array<char, largest_text + 1> buffer;
    const auto fd = sys.openat(dir, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    const auto size =
        fd ? sys.pread(fd->get(), buffer.data(), buffer.size(), 0, false) : Result<size_t>(fd.error());
    std::string why = "cannot be read";
    if (size) {
      auto parsed = parse(name, {buffer.data(), *size});
      if (auto* entry = std::get_if<Entry>(&parsed)) {
        const std::lock_guard lock(mutex_);
        entries_[name] = std::move(*entry);
        continue;
      }
      why = std::get<ParseError>(parsed).message;
    }
    log_warning("limit file .quota/{} is damaged ({}): the default holds until it is written anew",
                escape_name(name), why);
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[name];
    entry.damaged = true;
    entry.host_reserve = default_host_reserve;
    if (size) entry.text.assign(buffer.data(), *size);
  }
  return {};
}

Result<void> LimitStore::load() {
  Sys& sys = backing_.sys();
  const auto top = sys.openat(backing_.root(), std::string(quota_directory).c_str(),
                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!top) return top.error().value == ENOENT ? Result<void>() : Result<void>(top.error());
  if (const auto loaded = load_directory(top->get(), ""); !loaded) return loaded;
  const auto disks =
      sys.openat(top->get(), std::string(disks_directory).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (disks) {
    const auto loaded = load_directory(disks->get(), std::string(disks_directory) + "/");
    if (!loaded) return loaded;
  }
  if (!disks && disks.error().value != ENOENT) return disks.error();
  in_force(host_name);
  return {};
}

bool LimitStore::is_limit(std::string_view name) const {
  if (name == host_name || name == default_name || name == shared_account) return true;
  if (ledger_.find(name)) return true;
  const std::lock_guard lock(mutex_);
  return entries_.contains(name);
}

std::optional<std::string> LimitStore::text(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  return found->second.text;
}

std::vector<std::string> LimitStore::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

bool LimitStore::is_damaged(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  return found != entries_.end() && found->second.damaged;
}

std::optional<ParseError> LimitStore::check(std::string_view name, std::string_view text) const {
  const auto parsed = parse(name, text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  return std::nullopt;
}

Result<Fd> LimitStore::directory(std::string_view name, std::string* file, bool create) const {
  Sys& sys = backing_.sys();
  const auto open = [&](int parent, const std::string& child) -> Result<Fd> {
    auto fd = sys.openat(parent, child.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd || fd.error().value != ENOENT || !create) return fd;
    const auto made = sys.mkdirat(parent, child.c_str(), 0755);
    if (!made && made.error().value != EEXIST) return made.error();
    (void)!sys.fsync(parent);
    return sys.openat(parent, child.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  };
  const bool disk = has_disk_prefix(name);
  *file = std::string(disk ? name.substr(disks_directory.size() + 1) : name);
  // The root is an O_PATH descriptor where it came from the mount: fsync needs a real one.
  auto root = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!root) return root;
  auto top = open(root->get(), std::string(quota_directory));
  if (!top || !disk) return top;
  return open(top->get(), std::string(disks_directory));
}

Result<void> LimitStore::write_file(std::string_view name, std::string_view text, bool* renamed) {
  Sys& sys = backing_.sys();
  std::string file;
  const auto dir = directory(name, &file, true);
  if (!dir) return dir.error();
  const std::string temporary(temporary_name);
  const auto fd = sys.openat(dir->get(), temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
  if (!fd) return fd.error();
  Result<void> result;
  for (size_t at = 0; at < text.size() && result;) {
    const auto written = sys.pwrite(fd->get(), text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (!written) {
      result = written.error();
    } else if (*written == 0) {
      result = Errno{EIO};
    } else {
      at += *written;
    }
  }
  if (result) result = sys.fsync(fd->get());
  if (result) result = sys.renameat2(dir->get(), temporary.c_str(), dir->get(), file.c_str(), 0);
  if (!result) {
    (void)!sys.unlinkat(dir->get(), temporary.c_str(), 0);
    return result;
  }
  *renamed = true;
  return sys.fsync(dir->get());
}

Result<void> LimitStore::put_locked(std::string_view name, std::string_view text) {
  auto parsed = parse(name, text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) {
    log_info("refused for .quota/{}: {}", escape_name(name), error->message);
    return Errno{EINVAL};
  }
  Entry& entry = std::get<Entry>(parsed);
  // Limit files are exempt from limits, but not from a quarter of the host reserve.
  const Claims claims{{ledger_.open(shared_account), backing_.metadata(entry.text.size())}};
  auto reservation = ledger_.reserve(claims, Line::exempt, backing_.host_sample(ledger_), nullptr);
  if (!reservation && backing_.sync_host(ledger_)) {
    reservation = ledger_.reserve(claims, Line::exempt, backing_.host_sample(ledger_), nullptr);
  }
  if (!reservation) return Errno{ENOSPC};
  bool renamed = false;
  const auto written = write_file(name, entry.text, &renamed);
  // What is in force is what the file says, even where its durability could not be had.
  if (!renamed) return written;
  {
    const std::lock_guard lock(mutex_);
    entries_[std::string(name)] = std::move(entry);
  }
  in_force(name);
  return written;
}

Result<void> LimitStore::put(std::string_view name, std::string_view text) {
  Result<void> result;
  {
    const std::lock_guard lock(files_mutex_);
    result = put_locked(name, text);
  }
  if (on_files_changed) on_files_changed();
  return result;
}

Result<void> LimitStore::remove(std::string_view name, bool soon) {
  {
    const std::lock_guard lock(files_mutex_);
    std::string file;
    const auto dir = directory(name, &file, false);
    if (!dir) return dir.error();
    const auto removed = backing_.sys().unlinkat(dir->get(), file.c_str(), 0);
    if (!removed) return removed;
    (void)!backing_.sys().fsync(dir->get());
    {
      const std::lock_guard texts(mutex_);
      entries_.erase(std::string(name));
      if (soon) ending_[std::string(name)] = std::chrono::steady_clock::now() + editor_patience;
    }
    if (!soon) in_force(name);
  }
  if (on_files_changed) on_files_changed();
  return {};
}

// Where both are names of one file, rename(2) does nothing.
bool LimitStore::move_file(std::string_view from, std::string_view to) {
  Sys& sys = backing_.sys();
  std::string from_file;
  std::string to_file;
  const auto dir = directory(from, &from_file, false);
  const auto to_dir = directory(to, &to_file, true);
  if (!dir || !to_dir) return false;
  if (!sys.renameat2(dir->get(), from_file.c_str(), to_dir->get(), to_file.c_str(), 0)) return false;
  (void)!sys.fsync(to_dir->get());
  const auto removed = sys.unlinkat(dir->get(), from_file.c_str(), 0);
  return removed || removed.error().value == ENOENT;
}

bool LimitStore::remove_file(std::string_view name) const {
  std::string file;
  const auto dir = directory(name, &file, false);
  const auto removed = dir ? backing_.sys().unlinkat(dir->get(), file.c_str(), 0) : Result<void>(dir.error());
  return removed || removed.error().value == ENOENT;
}

Result<struct stat> LimitStore::stat_file(std::string_view name) const {
  std::string file;
  const auto dir = directory(name, &file, false);
  if (!dir) return dir.error();
  return backing_.sys().fstatat(dir->get(), file.c_str(), AT_SYMLINK_NOFOLLOW);
}

bool LimitStore::is_one_file(std::string_view a, std::string_view b) const {
  const auto first = stat_file(a);
  const auto second = stat_file(b);
  return first && second && first->st_ino == second->st_ino;
}

// The host lost its power while an account was renamed: its limit file has both names. The one that stands
// for nothing goes, or it would be in force for what gets that name some day.
void LimitStore::end_renames() {
  const auto stands = [&](const std::string& account) {
    const auto st = backing_.sys().fstatat(backing_.root(), account.c_str(), AT_SYMLINK_NOFOLLOW);
    return st.operator bool();
  };
  const std::vector<std::string> all = names();
  for (const std::string& name : all) {
    if (stands(name)) continue;
    const auto st = stat_file(name);
    if (!st || st->st_nlink < 2) continue;
    const bool renamed = std::any_of(all.begin(), all.end(), [&](const std::string& other) {
      return other != name && stands(other) && is_one_file(name, other);
    });
    if (!renamed || !remove_file(name)) continue;
    const std::lock_guard lock(mutex_);
    entries_.erase(name);
  }
}

void LimitStore::prepare_to_follow(std::string_view from, std::string_view to) {
  const std::lock_guard lock(files_mutex_);
  if (!unsaved_.empty()) return;
  Sys& sys = backing_.sys();
  std::string from_file;
  std::string to_file;
  const auto dir = directory(from, &from_file, false);
  const auto to_dir = directory(to, &to_file, true);
  const auto file =
      dir ? sys.openat(dir->get(), from_file.c_str(), O_PATH | O_NOFOLLOW, 0) : Result<Fd>(dir.error());
  if (!file || !to_dir) return;
  if (sys.linkat(file->get(), to_dir->get(), to_file.c_str())) (void)!sys.fsync(to_dir->get());
}

void LimitStore::stay(std::string_view from, std::string_view to) {
  const std::lock_guard lock(files_mutex_);
  {
    const std::lock_guard texts(mutex_);
    const auto source = entries_.find(from);
    const auto target = entries_.find(to);
    if (target != entries_.end() && (source == entries_.end() || source->second.text != target->second.text))
      return;
    if (target != entries_.end()) entries_.erase(target);
  }
  in_force(to);
  if (is_one_file(from, to) && !remove_file(to)) unsaved_.emplace(to);
}

void LimitStore::follow(std::string_view from, std::string_view to) {
  {
    const std::lock_guard lock(files_mutex_);
    {
      const std::lock_guard texts(mutex_);
      const auto source = entries_.find(from);
      const auto target = entries_.find(to);
      if (source == entries_.end()) return;
      // What was set meanwhile for the new name holds, unless it is what was prepared before a crash.
      if (target != entries_.end() && target->second.text != source->second.text) return;
      // The limit goes along at once; its file as soon as that can be done.
      entries_[std::string(to)] = std::move(source->second);
      entries_.erase(source);
    }
    if (!unsaved_.empty() || !move_file(from, to)) {
      unsaved_.emplace(from);
      unsaved_.emplace(to);
      save_unsaved();
      if (!unsaved_.empty()) {
        log_warning("the limit file of {} cannot follow to {} yet: tried again", escape_name(from),
                    escape_name(to));
      }
    }
    in_force(from);
    in_force(to);
  }
  if (on_files_changed) on_files_changed();
}

Limits LimitStore::limits_of(std::string_view account, bool* from_file, bool* damaged) const {
  const std::lock_guard lock(mutex_);
  *from_file = false;
  *damaged = false;
  Limits limits;
  if (is_vm_name(account)) {
    if (const auto found = entries_.find(default_name); found != entries_.end()) {
      limits = found->second.limits;
      *damaged = found->second.damaged;
    }
  }
  const auto found = entries_.find(account);
  if (found == entries_.end()) return limits;
  *from_file = true;
  *damaged = found->second.damaged;
  return found->second.damaged ? limits : found->second.limits;
}

void LimitStore::apply(std::string_view account) {
  const auto id = ledger_.find(account);
  if (!id) return;
  bool from_file = false;
  bool damaged = false;
  const Limits limits = limits_of(account, &from_file, &damaged);
  ledger_.set_limits(*id, limits, from_file);
  ledger_.set_damaged(*id, damaged);
}

void LimitStore::in_force(std::string_view name) {
  if (name == host_name) {
    Bytes reserve = default_host_reserve;
    {
      const std::lock_guard lock(mutex_);
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

void LimitStore::save_unsaved() {
  for (auto name = unsaved_.begin(); name != unsaved_.end();) {
    const auto kept = text(*name);
    bool done = false;
    if (kept) {
      (void)!write_file(*name, *kept, &done);
    } else {
      done = remove_file(*name);
    }
    if (done) {
      name = unsaved_.erase(name);
    } else {
      ++name;
    }
  }
}

void LimitStore::save() {
  {
    const std::lock_guard lock(files_mutex_);
    if (unsaved_.empty()) return;
    save_unsaved();
  }
  if (on_files_changed) on_files_changed();
}

void LimitStore::tick(int64_t now) {
  std::vector<std::string> ended;
  std::vector<std::string> removed;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, when] : ending_) {
      if (when <= std::chrono::steady_clock::now()) removed.push_back(name);
    }
    for (const std::string& name : removed) ending_.erase(name);
    for (const auto& [name, entry] : entries_) {
      if (entry.limits.loan && entry.limits.loan->until <= now) ended.push_back(name);
    }
  }
  for (const std::string& name : removed) in_force(name);
  save();
  if (ended.empty()) return;
  {
    const std::lock_guard lock(files_mutex_);
    for (const std::string& name : ended) {
      Limits limits;
      {
        const std::lock_guard texts(mutex_);
        const auto found = entries_.find(name);
        if (found == entries_.end() || !found->second.limits.loan || found->second.limits.loan->until > now)
          continue;
        limits = found->second.limits;
        limits.loan.reset();
        found->second.limits = limits;  // over, whether or not the file can be written now
        found->second.text = limits_text(limits);
      }
      in_force(name);
      bool renamed = false;
      if (!write_file(name, limits_text(limits), &renamed)) {
        log_warning("the loan of {} is over, but its limit file cannot be written", escape_name(name));
      }
    }
  }
  if (on_files_changed) on_files_changed();
}

}  // namespace limaquota
