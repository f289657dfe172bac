#include "fs/tree/inode_end.hpp"

#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {

void InodeEnd::forget(NodeId id, uint64_t count) {
  if (const InodePtr last = table_.forget(id, count)) let_die(last);
}

// Nobody needs the inode any more. Without a name its blocks come back now. The charge's record goes before
// either, since the inode number may be reused at once.
void InodeEnd::let_die(const InodePtr& inode) {
  Changes changes;
  {
    const MutexLock lock(inode->mutex);
    if (inode->dead || !inode->gone) return;
    Charges::give_back(inode->charge, inode->slack, changes);
    if (inode->charge.is_disk) ledger_.drop_disk(inode->id);
    table_.drop_charge(*inode);
    table_.close_path(*inode);
  }
  ledger_.apply(changes.data(), changes.size());
  const MutexLock lock(inode->mutex);
  table_.unmark_dying(*inode);
}

void InodeEnd::closed(const InodePtr& inode) {
  bool dies = false;
  --inode->opens;
  {
    const MutexLock lock(inode->mutex);
    if (!inode->dead && !inode->gone) inode_charges_.observe(*inode);
    if (inode->gone && inode->opens == 0) {
      list_.remove(*inode);
      table_.mark_dying(*inode);
      dies = inode->linked_outside;
    }
  }
  if (dies) let_die(inode);
  forget(inode->id, 0);
}

void InodeEnd::name_goes(const Standing& standing) {
  const InodePtr inode = table_.find(standing.id);
  if (inode && table_.has_charge(standing.id)) table_.note_account(*inode, ledger_.name(inode->account()));
}

void InodeEnd::name_gone(Standing standing, AccountId account) {
  const auto after = backing_.sys().fstat(standing.path.get());
  const bool no_link = after && (after->st_nlink == 0 || standing.is_directory());
  struct Gone {
    Role role = Role::plain;
    AccountId account = 0;
    bool known = false;  // to the kernel: it ends when that forgets it
    bool idle = false;
  };
  std::optional<Gone> gone;
  Changes changes;
  table_.with_charge(standing.id, [&](Charge& charge, Inode* inode) REQUIRES(inode->mutex) {
    const Bytes slack = inode != nullptr ? inode->slack : Bytes(0);
    const auto name_was = Charges::drop_name(charge, slack, account, changes);
    if (name_was == Charges::NameWas::one_of_several && !no_link) return InodeTable::Keep::yes;
    gone = Gone{charge.role, charge.account, inode != nullptr, false};
    if (inode == nullptr) {
      Charges::give_back(charge, Bytes(0), changes);
      if (charge.is_disk) ledger_.drop_disk(standing.id);
      return InodeTable::Keep::no;
    }
    inode->gone = true;
    // A link outside the tree keeps the inode, and the kernel may keep it in its cache: it is not ours any
    // more.
    inode->linked_outside = !no_link;
    table_.mark_dying(*inode);
    gone->idle = inode->opens == 0;
    if (gone->idle) list_.remove(*inode);
    return InodeTable::Keep::yes;
  });
  standing.path.reset();
  if (gone && gone->known) {
    const InodePtr inode = gone->idle && !no_link ? table_.find(standing.id) : nullptr;
    if (inode) let_die(inode);
    forget(standing.id, 0);
  }
  ledger_.apply(changes.data(), changes.size());
  if (gone) accounts_.closed(gone->role, gone->account);
}

}  // namespace limaquota
