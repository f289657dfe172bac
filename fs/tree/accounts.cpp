#include "fs/tree/accounts.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "accounting/escape.hpp"
#include "accounting/lima_yaml.hpp"
#include "accounting/mutex.hpp"
#include "fs/system/log.hpp"
#include "fs/system/read_names.hpp"

namespace limaquota {
namespace {

constexpr off_t largest_yaml = 1 << 20;

}  // namespace

Accounts::Accounts(const Backing& backing, Ledger& ledger, LimitStore& limits, std::vector<std::string> homes)
    : backing_(backing), ledger_(ledger), limits_(limits), homes_(std::move(homes)) {
  shared_ = ledger_.open(shared_account);
  limits_.apply(shared_account);
}

AccountId Accounts::opened(const std::string& account) {
  if (const auto known = ledger_.find(account)) return *known;
  const AccountId id = ledger_.open(account);
  limits_.apply(account);
  if (on_opened) on_opened(account);
  return id;
}

Child Accounts::child_of(Role parent_role, AccountId parent, std::string_view name, mode_t type) {
  const std::string own = own_account(parent_role, name, type);
  return {own.empty() ? parent : opened(own), role_of_child(parent_role, name, type),
          is_disk_file(parent_role, name, type), is_yaml(parent_role, name)};
}

void Accounts::closed(Role role, AccountId account) {
  if (role != Role::vm && role != Role::disk) return;
  ledger_.charge_to(account, std::nullopt);
  ledger_.close(account);
}

ImageHeader Accounts::header_of(int fd, uint64_t size) const {
  std::array<std::byte, image_header_bytes> head{};
  size_t got = 0;
  Sys& sys = backing_.sys();
  const auto readable = sys.openat(AT_FDCWD, ProcPath(fd).c_str(), O_RDONLY | O_NONBLOCK, 0);
  if (readable) {
    if (const auto read = sys.pread(readable->get(), head.data(), head.size(), 0, Sys::Caching::usual))
      got = *read;
  }
  return parse_image_header({head.data(), got}, Bytes(size));
}

void Accounts::read_header(NodeId id, int fd, uint64_t size) {
  ledger_.set_disk_header(id, header_of(fd, size));
}

void Accounts::changed(Role parent, AccountId account, std::string_view name) {
  const bool disks =
      parent == Role::root || parent == Role::disks || (parent == Role::disk && name == in_use_by_name);
  const bool vm =
      parent == Role::root || (parent == Role::vm && (name == yaml_name || is_disk_file_name(name)));
  if (!disks && !vm) return;
  const MutexLock lock(refresh_mutex_);
  const auto home = backing_.sys().openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  const std::string vm_name = parent == Role::root ? std::string(name) : ledger_.name(account);
  bool all = home.operator bool();
  if (all && vm && is_vm_name(vm_name)) all = refresh_vm(home->get(), vm_name);
  if (all && disks) all = refresh_disks(home->get());
  if (!all) stale_ = true;
}

// The target of a symlink; empty where there is none of that name.
Result<std::string> Accounts::read_link(int dir, const char* name) const {
  const auto fd = backing_.sys().openat(dir, name, O_PATH | O_NOFOLLOW, 0);
  if (!fd && fd.error().value == ENOENT) return std::string();
  if (!fd) return fd.error();
  auto target = backing_.sys().readlink(fd->get());
  if (!target && (target.error().value == EINVAL || target.error().value == ENOENT)) return std::string();
  return target;
}

bool Accounts::inside(const std::string& link, std::string_view directory) const {
  namespace files = std::filesystem;
  for (const std::string& path : homes_) {
    const files::path home(path);
    const files::path target = (home / directory / link).lexically_normal();
    // An absolute link replaces what is before it.
    if (std::mismatch(home.begin(), home.end(), target.begin(), target.end()).first == home.end())
      return true;
  }
  return false;
}

// An attachment that cannot be read stays as it is: false then.
bool Accounts::refresh_disks(int home) {
  Sys& sys = backing_.sys();
  const auto disks =
      sys.openat(home, std::string(disks_directory).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!disks) return disks.error().value == ENOENT || disks.error().value == ENOTDIR;
  const auto names = read_names(sys, disks->get());
  if (!names) return false;
  bool all = true;
  for (const std::string& name : *names) {
    const auto link = read_link(disks->get(), name.c_str());
    if (link && !link->empty() && !inside(*link, disks_directory)) {
      const AccountId outside = ledger_.open(account_of_disk(name));
      ledger_.set_outside(outside, true);
      log_warning("disk {} leads out of the Lima home: it is not limited", escape_name(name));
      continue;
    }
    const auto disk = ledger_.find(account_of_disk(name));
    if (!disk) continue;
    const auto dir = sys.openat(disks->get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    const auto target =
        dir ? read_link(dir->get(), std::string(in_use_by_name).c_str()) : Result<std::string>(dir.error());
    if (!target) {
      all = false;
      continue;
    }
    std::optional<AccountId> vm;
    const std::filesystem::path path = std::filesystem::path(*target).lexically_normal();
    const std::string vm_name = path.has_filename() ? path.filename() : path.parent_path().filename();
    if (is_vm_name(vm_name) && inside(*target, account_of_disk(name))) vm = ledger_.find(vm_name);
    ledger_.charge_to(*disk, vm);
  }
  return all;
}

bool Accounts::refresh_vm(int home, const std::string& name) {
  Sys& sys = backing_.sys();
  const auto st = sys.fstatat(home, name.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return st.error().value == ENOENT;
  const auto set_outside = [&](AccountId id, std::string_view what) {
    ledger_.set_outside(id, !what.empty());
    if (what.empty()) return;
    log_warning("{} of VM {} leads out of the Lima home: it is not limited", what, escape_name(name));
  };
  if (S_ISLNK(st->st_mode)) {
    const auto target = read_link(home, name.c_str());
    if (!target) return false;
    if (!inside(*target, "")) set_outside(ledger_.open(name), "the directory");
    return true;
  }
  const auto id = ledger_.find(name);
  if (!S_ISDIR(st->st_mode) || !id) return true;
  const auto dir = sys.openat(home, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!dir) return dir.error().value == ENOENT || dir.error().value == EACCES;
  std::string_view outside;
  for (const char* disk : {"disk", "diffdisk", "basedisk", "image", "iso"}) {
    const auto target = read_link(dir->get(), disk);
    if (!target) return false;
    if (!target->empty() && !inside(*target, name)) outside = disk;
  }
  set_outside(*id, outside);
  read_yaml(*id, dir->get());
  return true;
}

void Accounts::read_yaml(AccountId id, int dir) {
  Sys& sys = backing_.sys();
  const auto file = sys.openat(dir, std::string(yaml_name).c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
  const auto yaml_st = file ? sys.fstat(file->get()) : Result<struct stat>(file.error());
  if (!yaml_st || !S_ISREG(yaml_st->st_mode) || yaml_st->st_size > largest_yaml) return;
  std::string yaml(static_cast<size_t>(yaml_st->st_size), '\0');
  const auto size = sys.pread(file->get(), yaml.data(), yaml.size(), 0, Sys::Caching::usual);
  if (size) ledger_.set_virtual_fallback(id, lima_yaml_disk_size({yaml.data(), *size}).value_or(Bytes(0)));
}

bool Accounts::refresh() {
  const MutexLock lock(refresh_mutex_);
  Sys& sys = backing_.sys();
  const auto home = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  const auto names = home ? read_names(sys, home->get()) : Result<std::vector<std::string>>(home.error());
  bool all = names.operator bool();
  for (size_t i = 0; names && i < names->size(); ++i) {
    if (is_vm_name((*names)[i])) all = refresh_vm(home->get(), (*names)[i]) && all;
  }
  all = home && refresh_disks(home->get()) && all;
  stale_ = !all;
  return all;
}

void Accounts::refresh_again() {
  if (stale_) refresh();
}

}  // namespace limaquota
