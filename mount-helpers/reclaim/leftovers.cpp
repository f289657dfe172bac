#include "mount-helpers/reclaim/leftovers.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <random>
#include <string_view>

#include "accounting/layout.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view mark = ".limaquota-";
constexpr size_t random_letters = 6;

bool is_second_name(std::string_view name) {
  const size_t at = name.size() - std::min(name.size(), mark.size() + random_letters);
  return name.starts_with('.') && at > 1 && name.substr(at, mark.size()) == mark;
}

void add_leftovers(const fs::path& directory, std::vector<Leftover>& found) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    if (!is_second_name(entry->path().filename().string())) continue;
    const Fd file(::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    if (::flock(file.get(), LOCK_SH | LOCK_NB) != 0) continue;
    found.push_back({entry->path(), Bytes::of_st_blocks(status.st_blocks)});
  }
}

}  // namespace

fs::path new_second_file(const fs::path& disk) {
  constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::random_device random;
  std::uniform_int_distribution<size_t> one_of(0, letters.size() - 1);
  std::string name = "." + disk.filename().string() + std::string(mark);
  for (size_t i = 0; i < random_letters; ++i) name += letters[one_of(random)];
  return disk.parent_path() / name;
}

void mark_in_use(int file) { ::flock(file, LOCK_EX | LOCK_NB); }

std::vector<Leftover> leftovers_beside(const fs::path& disk) {
  std::vector<Leftover> found;
  add_leftovers(disk.parent_path(), found);
  const std::string prefix = "." + disk.filename().string() + std::string(mark);
  std::erase_if(found,
                [&](const Leftover& one) { return !one.file.filename().string().starts_with(prefix); });
  return found;
}

std::vector<Leftover> leftovers_in(const fs::path& home) {
  std::vector<Leftover> found;
  for (const fs::path& parent : {home, home / disks_directory}) {
    std::error_code error;
    for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
      if (!entry->path().filename().string().starts_with(".")) add_leftovers(entry->path(), found);
    }
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.file < b.file; });
  return found;
}

}  // namespace limaquota
