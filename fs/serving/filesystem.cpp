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
      limit_files(backing),
      limits(backing, ledger, limit_files),
      limit_follows(backing, limits),
      memory(ledger, notes),
      metering(backing, ledger, table, options.refusal),
      tree(backing, notes, ledger, table, limits, limit_follows, metering, options.homes),
      usage(backing, ledger, notes, options.homes.empty() ? std::string() : options.homes.front()),
      quota(backing, limits, notes),
      virtual_tree(usage, quota, notes, root_stat(backing).st_uid, root_stat(backing).st_gid) {
  if (options.make_data_path) other_data_ = options.make_data_path(backing);
  limits.on_files_changed = [this] { (void)tree.limit_files.recount(); };
  tree.accounts.on_opened = [this](std::string_view account) { quota.promote(account); };
}

Filesystem::~Filesystem() {
  metering.settler.stop();
  limit_follows.save();
}

DataPath& Filesystem::data(const Inode& inode) {
  DataPath* chosen = inode.data;
  return chosen != nullptr ? *chosen : metering.io;
}

void Filesystem::choose_data(Inode& inode) { inode.data = other_data_ ? other_data_.get() : &metering.io; }

Result<void> Filesystem::start(const std::vector<int>& descriptors) {
  ledger.set_time(std::time(nullptr));
  if (const auto loaded = limits.load(); !loaded) return loaded;
  // A rename that a worker left undone comes again, and is then done to its end.
  if (!notes.process.takes_over()) limit_follows.end_renames();
  limits.apply(shared_account);
  limits.tick(std::time(nullptr));
  const auto scanned = tree.scan.run();
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
    if (const auto taken = tree.takeover.run(of_tree); !taken) return taken;
  }
  memory.take_over();
  // Who waits already waits no longer for the disk: whoever is refused for the host's sake syncs it first.
  sync_later_ = !descriptors.empty();
  if (!sync_later_) (void)backing.sync_host(ledger);
  return {};
}

void Filesystem::settle(std::function<void()> in_doubt) {
  Settler::Hooks hooks;
  hooks.let_go = [this](const InodePtr& inode) { tree.ends.forget(inode->id, 0); };
  hooks.on_thrown = [this] { doubt(); };
  hooks.each_look = [this, in_doubt = std::move(in_doubt)] {
    if (doubtful_) in_doubt();
    if (std::exchange(sync_later_, false)) (void)backing.sync_host(ledger);
    const int64_t now = std::time(nullptr);
    ledger.set_time(now);
    limits.tick(now);
    limit_follows.save();
    tree.go_on();
    memory.keep();
  };
  metering.settler.start(std::move(hooks));
}

}  // namespace limaquota
