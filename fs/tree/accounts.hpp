// From the tree to the ledger: which account an entry belongs to, which files are disks, which disks are
// attached.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "accounting/layout.hpp"
#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/metering/inode.hpp"

namespace limaquota {

// What an entry counts as.
struct Child {
  AccountId account = 0;
  Role role = Role::plain;
  bool is_disk = false;
  bool is_yaml = false;
};

// Thread safety: all functions may be called from any thread.
class Accounts {
 public:
  // `homes`: the absolute paths by which the Lima home is known (mount point and source, links resolved or
  // not).
  Accounts(const Backing& backing, Ledger& ledger, LimitStore& limits, std::vector<std::string> homes);

  AccountId shared() const { return shared_; }
  // What an entry `name` of a directory in this role and account counts as. Its account is opened, with its
  // limits in force, when it is the directory of a VM or a disk.
  Child child_of(Role parent_role, AccountId parent, std::string_view name, mode_t type);
  // Called when an account comes to be, with its name and no lock held.
  std::function<void(std::string_view)> on_opened;
  // The directory of a VM or a disk is gone: so is its account.
  void closed(Role role, AccountId account);

  // --- disks --- `fd` is O_PATH or real; the file's first bytes are read.
  ImageHeader header_of(int fd, uint64_t size) const;
  // The header may have changed.
  void read_header(NodeId id, int fd, uint64_t size);

  // Reads every `_disks/<name>/in_use_by` again, and every symlink that may lead a VM or a disk out of the
  // tree, and `lima.yaml` of VMs without a disk.
  // False where something could not be read: refresh_again tries that again.
  bool refresh();
  void refresh_again();
  // The same for what a change of this entry, in a directory of this role and account, may have changed.
  void changed(Role parent, AccountId account, std::string_view name);

 private:
  AccountId opened(const std::string& account);
  bool inside(const std::string& link, std::string_view directory) const;
  bool refresh_disks(int home);
  bool refresh_vm(int home, const std::string& name);
  void read_yaml(AccountId id, int dir);
  Result<std::string> read_link(int dir, const char* name) const;

  const Backing& backing_;
  Ledger& ledger_;
  LimitStore& limits_;
  const std::vector<std::string> homes_;
  AccountId shared_ = 0;
  Mutex refresh_mutex_;  // one refresh at a time
  std::atomic<bool> stale_{false};
};

}  // namespace limaquota
