#include "fs/serving/filesystem.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <ctime>
#include <utility>

#include "accounting/layout.hpp"

namespace limaquota {
namespace {

struct stat root_stat(const Backing& backing) {
  const auto st = backing.sys().fstat(backing.root());
  return st ? *st : (struct stat){};
}

}  // namespace

Filesystem::Filesystem(Sys& sys, Notes& its_notes, Fd root, const FilesystemOptions& options)
    : notes(its_notes),
      open_flags(options.noatime ? O_NOATIME : 0),
      backing(sys, std::move(root), options.backing_options),
      table(notes),
      limits(backing, ledger),
      memory(ledger, notes),
      accounts(backing, ledger, limits, options.homes),
      settler(backing, ledger, table),
      io(backing, ledger, table, settler, options.refusal),
      tree(backing, notes, ledger, table, accounts, limits, io, settler),
      usage(backing, ledger, notes, options.homes.empty() ? std::string() : options.homes.front()),
      quota(backing, limits, notes),
      virtual_tree(usage, quota, notes, root_stat(backing).st_uid, root_stat(backing).st_gid) {
  limits.on_files_changed = [this] { tree.recharge_limit_files(); };
  accounts.on_opened = [this](std::string_view account) { quota.promote(account); };
}

Filesystem::~Filesystem() {
  settler.stop();
  limits.save();
}

Result<void> Filesystem::start(const std::vector<int>& descriptors) {
  ledger.set_time(std::time(nullptr));
  if (const auto loaded = limits.load(); !loaded) return loaded;
  // A rename that a worker left undone comes again, and is then done to its end.
  if (!notes.process.takes_over()) limits.end_renames();
  limits.apply(shared_account);
  limits.tick(std::time(nullptr));
  const auto scanned = tree.scan();
  if (!scanned) return scanned;
  if (!descriptors.empty()) {
    std::vector<int> of_tree;
    for (const int fd : descriptors) {
      if (notes.descriptors.of(fd).use() == DescriptorUse::text) {
        virtual_tree.take_over_text(fd);
      } else {
        of_tree.push_back(fd);
      }
    }
    if (const auto taken = tree.take_over(of_tree); !taken) return taken;
  }
  memory.take_over();
  // Who waits already waits no longer for the disk: whoever is refused for the host's sake syncs it first.
  sync_later_ = !descriptors.empty();
  if (!sync_later_) (void)backing.sync_host(ledger);
  return {};
}

void Filesystem::settle(std::function<void()> in_doubt) {
  settler.on_thrown = [this] { doubt(); };
  settler.start(
      io, [this](const InodePtr& inode) { tree.let_go(inode); },
      [this, in_doubt = std::move(in_doubt)] {
        if (doubtful_) in_doubt();
        if (std::exchange(sync_later_, false)) (void)backing.sync_host(ledger);
        const int64_t now = std::time(nullptr);
        ledger.set_time(now);
        limits.tick(now);
        tree.recount_now();
        tree.forget_some();
        tree.ask_for_taken_over();
        memory.keep();
        accounts.refresh_again();
      });
}

}  // namespace limaquota
