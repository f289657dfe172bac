#include "fs/tree/charges.hpp"

#include <memory>
#include <utility>

namespace limaquota {
DiskRecord Charges::disk_record(const Found& found, AccountId account, const char* name) const {
  return {account, name, accounts_.header_of(found.path, static_cast<uint64_t>(found.st.st_size)),
          Bytes::of_st_blocks(found.st.st_blocks)};
}

void Charges::add(const Found& found, const Child& child, const char* name, Changes& changes) {
  Charge charge;
  charge.bytes = Bytes::of_st_blocks(found.st.st_blocks);
  charge.account = child.account;
  charge.role = child.role;
  charge.is_disk = child.is_disk;
  charge.is_yaml = child.is_yaml;
  charge.handle = found.handle;
  if (!table_.add_charge(found.id, std::move(charge))) return;
  if (child.is_disk) ledger_.put_disk(found.id, disk_record(found, child.account, name));
  changes.push_back(
      {child.account, Bytes(0), Bytes::of_st_blocks(found.st.st_blocks), Bytes(0), Bytes(0), 0});
}

void Charges::drop_stale(const Found& found, Changes& changes) {
  const auto stale = table_.take_stale_charge(found.id, found.handle);
  if (!stale) return;
  give_back(*stale, Bytes(0), changes);
  if (stale->is_disk) ledger_.drop_disk(found.id);
}

void Charges::give_back(const Charge& charge, Bytes slack, Changes& changes) {
  for (const AccountId account : charge.accounts())
    changes.push_back({account, charge.bytes, Bytes(0), slack, Bytes(0), 0});
}

std::optional<Charges::Where> Charges::find(NodeId id) {
  std::optional<Where> where;
  table_.with_charge(id, [&](const Charge& charge, const Inode*) {
    where = Where{charge.account, charge.role, charge.holders != nullptr};
    return InodeTable::Keep::yes;
  });
  return where;
}

void Charges::add_name(Inode& inode, AccountId account) {
  auto& holders = inode.charge.holders;
  if (!holders) holders = std::make_unique<Holders>(inode.charge.account);
  (void)holders->add(account);
}

Charges::NameWas Charges::drop_name(Charge& charge, Bytes slack, AccountId account, Changes& changes) {
  if (!charge.holders) return NameWas::last;
  if (charge.holders->remove(account) != Holders::Name::alone) return NameWas::one_of_several;
  if (charge.holders->empty()) {
    charge.holders.reset();
    return NameWas::last;
  }
  changes.push_back({account, charge.bytes, Bytes(0), slack, Bytes(0), 0});
  charge.account = charge.holders->first();
  return NameWas::one_of_several;
}

void Charges::set_holders(NodeId id, Holders holders) {
  table_.with_charge(id, [&](Charge& charge, const Inode*) {
    Changes changes;
    for (const AccountId account : holders.accounts()) {
      if (account == charge.account) continue;
      changes.push_back({account, Bytes(0), charge.bytes, Bytes(0), Bytes(0), 0});
    }
    ledger_.apply(changes.data(), changes.size());
    charge.holders = std::make_unique<Holders>(std::move(holders));
    return InodeTable::Keep::yes;
  });
}

// One of several names went from one account to another: the inode counts in each that holds a name.
void Charges::move_holder(Charge& charge, AccountId from, AccountId to, Bytes slack) {
  const bool empty = charge.holders->remove(from) == Holders::Name::alone;
  const bool is_new = charge.holders->add(to) == Holders::Name::alone;
  if (empty && is_new) {
    ledger_.move(from, to, charge.bytes, slack);
  } else if (is_new || empty) {
    const Change change = is_new ? Change{to, Bytes(0), charge.bytes, Bytes(0), slack, 0}
                                 : Change{from, charge.bytes, Bytes(0), slack, Bytes(0), 0};
    ledger_.apply(&change, 1);
  }
  charge.account = charge.holders->first();
}

void Charges::move_name(const Found& found, AccountId from, const Child& child, const char* name) {
  std::optional<DiskRecord> record;
  if (child.is_disk) record = disk_record(found, child.account, name);
  table_.with_charge(found.id, [&](Charge& charge, const Inode* inode) REQUIRES(inode->mutex) {
    const Bytes slack = inode != nullptr ? inode->slack : Bytes(0);
    const AccountId to = child.account;
    if (from != to && charge.holders) {
      move_holder(charge, from, to, slack);
    } else if (from != to) {
      ledger_.move(charge.account, to, charge.bytes, slack);
      charge.account = to;
    }
    charge.role = child.role;
    charge.is_yaml = child.is_yaml;
    if (charge.is_disk && !child.is_disk) ledger_.drop_disk(found.id);
    charge.is_disk = child.is_disk;
    if (record) {
      record->account = charge.account;
      ledger_.put_disk(found.id, *record);
    }
    return InodeTable::Keep::yes;
  });
}

void Charges::become_disk(Inode& inode, AccountId account, const char* name, const struct stat& st) {
  inode.charge.is_disk = true;
  ledger_.put_disk(inode.id, disk_record({inode.id, inode.path.get(), st, {}}, account, name));
}

}  // namespace limaquota
