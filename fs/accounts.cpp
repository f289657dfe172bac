#include "fs/accounts.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "accounting/lima_yaml.hpp"
#include "accounting/usage_text.hpp"
#include "fs/log.hpp"
#include "fs/read_names.hpp"

namespace limaquota {
namespace {

constexpr std::string_view in_use_by = "in_use_by";
constexpr std::string_view yaml_name = "lima.yaml";
constexpr off_t largest_yaml = 1 << 20;

ImageHeader read_image(Sys& sys, int fd, uint64_t size) {
  std::array<std::byte, image_header_bytes> head{};
  size_t got = 0;
  const auto readable = sys.openat(AT_FDCWD, ProcPath(fd).c_str(), O_RDONLY | O_NONBLOCK, 0);
  if (readable) {
    if (const auto read = sys.pread(readable->get(), head.data(), head.size(), 0)) got = *read;
  }
  return parse_image_header({head.data(), got}, Bytes(size));
}

}  // namespace

Accounts::Accounts(const Backing& backing, Ledger& ledger, LimitStore& limits, std::vector<std::string> homes)
    : backing_(backing), ledger_(ledger), limits_(limits), homes_(std::move(homes)) {
  shared_ = ledger_.open(shared_account);
  limits_.apply(shared_account);
}

Role Accounts::role_of_child(Role parent, std::string_view name, mode_t type) {
  if (!S_ISDIR(type)) return Role::plain;
  if (parent == Role::root && name == disks_directory) return Role::disks;
  if (parent == Role::root && account_of_home_directory(name)) return Role::vm;
  if (parent == Role::disks) return Role::disk;
  return Role::plain;
}

AccountId Accounts::account_of_child(Role parent_role, AccountId parent, std::string_view name, mode_t type) {
  const Role role = role_of_child(parent_role, name, type);
  if (role != Role::vm && role != Role::disk) return parent;
  const std::string account = role == Role::vm ? std::string(name) : account_of_disk(name);
  if (const auto known = ledger_.find(account)) return *known;
  const AccountId id = ledger_.open(account);
  limits_.apply(account);
  if (on_opened) on_opened(account);
  return id;
}

bool Accounts::is_yaml(Role parent, std::string_view name) { return parent == Role::vm && name == yaml_name; }

bool Accounts::is_disk(Role parent, std::string_view name, mode_t type) {
  return S_ISREG(type) && (parent == Role::vm || parent == Role::disk) && is_disk_file_name(name);
}

void Accounts::closed(Role role, AccountId account) {
  if (role != Role::vm && role != Role::disk) return;
  ledger_.charge_to(account, std::nullopt);
  ledger_.close(account);
}

void Accounts::put_disk(NodeId id, AccountId account, std::string_view name, int fd, const struct stat& st) {
  ledger_.put_disk(
      id, {account, std::string(name), read_image(backing_.sys(), fd, static_cast<uint64_t>(st.st_size)),
           Bytes::of_st_blocks(st.st_blocks)});
}

void Accounts::read_header(NodeId id, int fd, uint64_t size) {
  ledger_.set_disk_header(id, read_image(backing_.sys(), fd, size));
}

void Accounts::changed(Role parent, AccountId account, std::string_view name) {
  const bool disks =
      parent == Role::root || parent == Role::disks || (parent == Role::disk && name == in_use_by);
  const bool vm =
      parent == Role::root || (parent == Role::vm && (name == yaml_name || is_disk_file_name(name)));
  if (!disks && !vm) return;
  const std::lock_guard lock(refresh_mutex_);
  const auto home = backing_.sys().openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!home) return;
  const std::string vm_name = parent == Role::root ? std::string(name) : ledger_.name(account);
  if (vm && is_vm_name(vm_name)) refresh_vm(home->get(), vm_name);
  if (disks) refresh_disks(home->get());
}

std::string Accounts::read_link(int dir, const char* name) const {
  const auto fd = backing_.sys().openat(dir, name, O_PATH | O_NOFOLLOW, 0);
  if (!fd) return {};
  const auto target = backing_.sys().readlink(fd->get());
  return target ? *target : std::string();
}

bool Accounts::inside(const std::string& link, std::string_view directory) const {
  namespace files = std::filesystem;
  for (const std::string& path : homes_) {
    const files::path home(path);
    const files::path target = (home / directory / link).lexically_normal();
    // An absolute link replaces what is before it.
    if (std::mismatch(home.begin(), home.end(), target.begin(), target.end()).first == home.end()) return true;
  }
  return false;
}

void Accounts::refresh_disks(int home) {
  Sys& sys = backing_.sys();
  const auto disks =
      sys.openat(home, std::string(disks_directory).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!disks) return;
  for (const std::string& name : read_names(sys, disks->get())) {
    const auto disk = ledger_.find(account_of_disk(name));
    if (!disk) continue;
    std::optional<AccountId> vm;
    const auto dir = sys.openat(disks->get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dir) {
      const std::string target = read_link(dir->get(), std::string(in_use_by).c_str());
      const std::filesystem::path path = std::filesystem::path(target).lexically_normal();
      const std::string vm_name = path.has_filename() ? path.filename() : path.parent_path().filename();
      if (is_vm_name(vm_name) && inside(target, account_of_disk(name))) vm = ledger_.find(vm_name);
    }
    ledger_.charge_to(*disk, vm);
  }
}

void Accounts::refresh_vm(int home, const std::string& name) {
  Sys& sys = backing_.sys();
  const auto st = sys.fstatat(home, name.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!st) return;
  const auto outside = [&](std::string_view what) {
    const AccountId id = ledger_.open(name);
    ledger_.set_outside(id, true);
    log_warning("{} of VM {} leads out of the Lima home: it is not limited", what, escape_name(name));
  };
  if (S_ISLNK(st->st_mode)) {
    if (!inside(read_link(home, name.c_str()), "")) outside("the directory");
    return;
  }
  const auto id = ledger_.find(name);
  if (!S_ISDIR(st->st_mode) || !id) return;
  const auto dir = sys.openat(home, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (!dir) return;
  ledger_.set_outside(*id, false);
  for (const char* disk : {"disk", "diffdisk", "basedisk", "image", "iso"}) {
    const std::string target = read_link(dir->get(), disk);
    if (!target.empty() && !inside(target, name)) outside(disk);
  }
  const auto file =
      sys.openat(dir->get(), std::string(yaml_name).c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
  const auto yaml_st = file ? sys.fstat(file->get()) : Result<struct stat>(file.error());
  if (!yaml_st || !S_ISREG(yaml_st->st_mode) || yaml_st->st_size > largest_yaml) return;
  std::string yaml(static_cast<size_t>(yaml_st->st_size), '\0');
  const auto size = sys.pread(file->get(), yaml.data(), yaml.size(), 0);
  if (size) ledger_.set_virtual_fallback(*id, lima_yaml_disk_size({yaml.data(), *size}).value_or(Bytes(0)));
}

void Accounts::refresh() {
  const std::lock_guard lock(refresh_mutex_);
  Sys& sys = backing_.sys();
  const auto home = sys.openat(backing_.root(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (!home) return;
  for (const std::string& name : read_names(sys, home->get())) {
    if (is_vm_name(name)) refresh_vm(home->get(), name);
  }
  refresh_disks(home->get());
}

}  // namespace limaquota
