#include "fs/limits/limit_files.hpp"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <utility>

#include "accounting/layout.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {
namespace {

// Not a name of any account, so that a crash while one is being written leaves nothing that counts.
constexpr std::string_view temporary_name = ".limaquota-new";
constexpr size_t largest_text = 4096;
constexpr int directory_flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

}  // namespace

Result<void> LimitFiles::read_directory(int dir, const std::string& prefix, const Take& take) const {
  Sys& sys = backing_.sys();
  const auto files = read_names(sys, dir);
  if (!files) return files.error();
  for (const std::string& file : *files) {
    if (file == temporary_name) (void)!sys.unlinkat(dir, file.c_str(), 0);
    if (file.starts_with('.')) continue;
    if (prefix.empty() && file == disks_directory) continue;
    std::array<char, largest_text + 1> buffer;
    const auto fd = sys.openat(dir, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    const auto size = fd ? sys.pread(fd->get(), buffer.data(), buffer.size(), 0, Sys::Caching::usual)
                         : Result<size_t>(fd.error());
    take(prefix + file, size ? Result<std::string>(std::string(buffer.data(), *size)) : size.error());
  }
  return {};
}

Result<void> LimitFiles::read_all(const Take& take) const {
  Sys& sys = backing_.sys();
  const auto top = sys.openat(backing_.root(), std::string(quota_directory).c_str(), directory_flags, 0);
  if (!top) return top.error().value == ENOENT ? Result<void>() : Result<void>(top.error());
  if (const auto read = read_directory(top->get(), "", take); !read) return read;
  const auto disks = sys.openat(top->get(), std::string(disks_directory).c_str(), directory_flags, 0);
  if (disks) return read_directory(disks->get(), std::string(disks_directory) + "/", take);
  return disks.error().value == ENOENT ? Result<void>() : Result<void>(disks.error());
}

Result<LimitFiles::Place> LimitFiles::place_of(std::string_view name, Missing directories) const {
  Sys& sys = backing_.sys();
  const auto open = [&](int parent, const std::string& child) -> Result<Fd> {
    auto fd = sys.openat(parent, child.c_str(), directory_flags, 0);
    if (fd || fd.error().value != ENOENT || directories == Missing::is_error) return fd;
    const auto made = sys.mkdirat(parent, child.c_str(), 0755);
    if (!made && made.error().value != EEXIST) return made.error();
    (void)!sys.fsync(parent);
    return sys.openat(parent, child.c_str(), directory_flags, 0);
  };
  const auto disk = disk_of_account(name);
  // The root is an O_PATH descriptor where it came from the mount: fsync needs a real one.
  const auto root = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!root) return root.error();
  auto directory = open(root->get(), std::string(quota_directory));
  if (directory && disk) directory = open(directory->get(), std::string(disks_directory));
  if (!directory) return directory.error();
  return Place{std::move(*directory), std::string(disk.value_or(name))};
}

LimitFiles::Written LimitFiles::write(std::string_view name, std::string_view text) {
  Sys& sys = backing_.sys();
  const auto place = place_of(name, Missing::is_made);
  if (!place) return {place.error()};
  const int dir = place->directory.get();
  const std::string temporary(temporary_name);
  const auto fd = sys.openat(dir, temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
  if (!fd) return {fd.error()};
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
  if (result) result = sys.renameat2(dir, temporary.c_str(), dir, place->file.c_str(), 0);
  if (!result) {
    (void)!sys.unlinkat(dir, temporary.c_str(), 0);
    return {result};
  }
  return {sys.fsync(dir), true};
}

Result<void> LimitFiles::remove(std::string_view name) {
  Sys& sys = backing_.sys();
  const auto place = place_of(name, Missing::is_error);
  if (!place) return place.error();
  const auto removed = sys.unlinkat(place->directory.get(), place->file.c_str(), 0);
  if (removed) (void)!sys.fsync(place->directory.get());
  return removed;
}

bool LimitFiles::is_removed(std::string_view name) {
  const auto place = place_of(name, Missing::is_error);
  const auto removed = place ? backing_.sys().unlinkat(place->directory.get(), place->file.c_str(), 0)
                             : Result<void>(place.error());
  return removed || removed.error().value == ENOENT;
}

void LimitFiles::add_name(std::string_view name, std::string_view second) {
  Sys& sys = backing_.sys();
  const auto from = place_of(name, Missing::is_error);
  const auto to = place_of(second, Missing::is_made);
  if (!from || !to) return;
  const auto file = sys.openat(from->directory.get(), from->file.c_str(), O_PATH | O_NOFOLLOW, 0);
  if (file && sys.linkat(file->get(), to->directory.get(), to->file.c_str()))
    (void)!sys.fsync(to->directory.get());
}

bool LimitFiles::rename(std::string_view from, std::string_view to) {
  Sys& sys = backing_.sys();
  const auto old_place = place_of(from, Missing::is_error);
  const auto place = place_of(to, Missing::is_made);
  if (!old_place || !place) return false;
  if (!sys.renameat2(old_place->directory.get(), old_place->file.c_str(), place->directory.get(),
                     place->file.c_str(), 0))
    return false;
  (void)!sys.fsync(place->directory.get());
  // Where both were names of one file, rename(2) did nothing.
  const auto removed = sys.unlinkat(old_place->directory.get(), old_place->file.c_str(), 0);
  return removed || removed.error().value == ENOENT;
}

Result<struct stat> LimitFiles::stat_of(std::string_view name) const {
  const auto place = place_of(name, Missing::is_error);
  if (!place) return place.error();
  return backing_.sys().fstatat(place->directory.get(), place->file.c_str(), AT_SYMLINK_NOFOLLOW);
}

bool LimitFiles::is_one_file(std::string_view a, std::string_view b) const {
  const auto first = stat_of(a);
  const auto second = stat_of(b);
  return first && second && first->st_ino == second->st_ino;
}

nlink_t LimitFiles::names_of(std::string_view name) const {
  const auto st = stat_of(name);
  return st ? st->st_nlink : 0;
}

}  // namespace limaquota
