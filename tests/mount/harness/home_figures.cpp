// What the mount says of its accounts, and what the backing says of them.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <limits>
#include <set>
#include <sstream>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {

namespace {

// An account's directories in the backing.
struct Tree {
  std::map<std::string, std::vector<fs::path>> accounts;  // all but _shared
};

bool is_real_directory(const fs::path& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::vector<std::string> names_in(const fs::path& path) {
  std::vector<std::string> names;
  std::error_code error;
  auto it = fs::directory_iterator(path, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error))
    names.push_back(it->path().filename());
  return names;
}

Tree tree_of(const fs::path& home) {
  Tree tree;
  for (const std::string& name : names_in(home))
    if (name[0] != '.' && name[0] != '_' && is_real_directory(home / name))
      tree.accounts[name].push_back(home / name);
  for (const std::string& name : names_in(home / "_disks")) {
    const fs::path disk = home / "_disks" / name;
    if (!is_real_directory(disk)) continue;
    std::error_code error;
    const std::string vm = fs::read_symlink(disk / "in_use_by", error).filename();
    const bool attached = !error && tree.accounts.contains(vm);
    tree.accounts[attached ? vm : "_disks/" + name].push_back(disk);
  }
  return tree;
}

// Adds the blocks of what has not been seen yet, leaving out the directories of `others`.
uint64_t du_without(const fs::path& path, const std::set<fs::path>& others,
                    std::set<std::pair<dev_t, ino_t>>& seen) {
  struct stat status = {};
  if (others.contains(path) || ::lstat(path.c_str(), &status) != 0) return 0;
  uint64_t sum = 0;
  if (seen.emplace(status.st_dev, status.st_ino).second) sum = static_cast<uint64_t>(status.st_blocks) * 512;
  if (S_ISDIR(status.st_mode))
    for (const std::string& name : names_in(path)) sum += du_without(path / name, others, seen);
  return sum;
}

}  // namespace

std::map<std::string, std::string> MountedHome::usage(const std::string& account) const {
  std::map<std::string, std::string> figures;
  std::istringstream lines(read_text(mount_ / ".usage" / account));
  for (std::string line; std::getline(lines, line);) {
    const size_t blank = line.find(' ');
    if (blank == std::string::npos) {
      ADD_FAILURE() << ".usage/" << account << " has a line without a value: " << line;
      continue;
    }
    std::string& value = figures[line.substr(0, blank)];
    value += (value.empty() ? "" : "\n") + line.substr(blank + 1);
  }
  return figures;
}

uint64_t MountedHome::figure(const std::string& account, const std::string& key) const {
  const std::string text = usage(account)[key];
  if (text == "max") return std::numeric_limits<uint64_t>::max();
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end)
    ADD_FAILURE() << ".usage/" << account << ": " << key << " is no number: '" << text << "'";
  return value;
}

int MountedHome::try_set_limit(const std::string& account, const std::string& text) const {
  return write_text(mount_ / ".quota" / account, text);
}

void MountedHome::set_limit(const std::string& account, const std::string& text) const {
  const int error = try_set_limit(account, text);
  EXPECT_EQ(error, 0) << "writing '" << text << "' to .quota/" << account << ": " << std::strerror(error);
}

fs::path MountedHome::make_vm(const std::string& name) const {
  EXPECT_EQ(errno_of(::mkdir((mount_ / name).c_str(), 0755)), 0) << name;
  EXPECT_EQ(write_text(mount_ / name / "lima.yaml", "disk: 10GiB\n"), 0) << name;
  return mount_ / name;
}

uint64_t MountedHome::du(const std::string& account) const {
  const Tree tree = tree_of(backing_);
  std::set<std::pair<dev_t, ino_t>> seen;
  uint64_t sum = 0;
  if (account == "_shared") {
    std::set<fs::path> others;
    for (const auto& [name, directories] : tree.accounts)
      others.insert(directories.begin(), directories.end());
    return du_without(backing_, others, seen);
  }
  const auto found = tree.accounts.find(account);
  if (found == tree.accounts.end()) return 0;
  for (const fs::path& directory : found->second) sum += du_without(directory, {}, seen);
  return sum;
}

std::vector<fs::path> MountedHome::directories(const std::string& account) const {
  return tree_of(backing_).accounts[account];
}

std::vector<std::string> MountedHome::accounts() const {
  std::vector<std::string> names = {"_shared"};
  for (const auto& [name, directories] : tree_of(backing_).accounts) names.push_back(name);
  return names;
}

bool MountedHome::comes_to_rest(const std::string& account) const {
  return eventually([&] { return is_at_rest(account); });
}

void MountedHome::expect_exact() const {
  for (const std::string& account : accounts()) {
    if (comes_to_rest(account)) continue;
    ADD_FAILURE() << account << ": used " << used(account) << ", du " << du(account)
                  << " (used - du = " << static_cast<int64_t>(used(account) - du(account)) << ")";
  }
}

void MountedHome::sync_backing() const {
  const Fd fd = open_file(backing_, O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(errno_of(::syncfs(fd.get())), 0);
}

uint64_t MountedHome::host_free() const {
  struct statvfs status = {};
  EXPECT_EQ(errno_of(::statvfs(backing_.c_str(), &status)), 0);
  return status.f_bavail * status.f_frsize;
}

}  // namespace limaquota::mount_tests
