// A home on a filesystem in memory, with the parts of fs/ that meter it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/metering.hpp"
#include "tests/seam/memory_sys.hpp"

namespace limaquota {

struct SeamHome {
  explicit SeamHome(const MemoryRules& rules)
      : sys(rules),
        notes(Notes::unshared()),
        backing(sys, sys.open_root(), ""),
        table(*notes),
        metering(backing, ledger, table, ENOSPC) {
    ledger.set_host_reserve(Bytes(0));
    account = ledger.open("vm");
    (void)!sys.mkdirat(backing.root(), "vm", 0755);
    directory = open(backing.root(), "vm", O_RDONLY | O_DIRECTORY);
  }

  struct File {
    InodePtr inode;
    Fd fd;
  };
  // A disk of the VM, charged to it.
  File disk(const std::string& name) {
    File file;
    file.fd = open(directory.get(), name.c_str(), O_RDWR | O_CREAT);
    Fd path = open(directory.get(), name.c_str(), O_PATH);
    const auto st = *sys.fstat(path.get());
    const NodeId id = table.id_of(st.st_dev, st.st_ino);
    Charge charge;
    charge.account = account;
    charge.is_disk = true;
    (void)table.add_charge(id, std::move(charge));
    ledger.put_disk(id, {account, name, {}, Bytes(0)});
    file.inode = table.enter(id, std::move(path), 0, name.c_str(), [&](Inode& made) {
      made.type = S_IFREG;
      made.extents_at_most = 1;
    });
    return file;
  }

  Fd open(int dir, const char* name, int flags) {
    auto fd = sys.openat(dir, name, flags, 0644);
    EXPECT_TRUE(fd) << name;
    return fd ? std::move(*fd) : Fd();
  }
  void set_limit(Bytes limit) {
    Limits limits;
    limits.limit = limit;
    limits.control_reserve = Bytes(0);
    ledger.set_limits(account, limits, Ledger::LimitsFrom::own_file);
  }
  Bytes used() const { return ledger.figures("vm", Bytes::unlimited())->used; }
  Bytes reserved() const { return ledger.figures("vm", Bytes::unlimited())->reserved; }

  MemorySys sys;
  std::unique_ptr<Notes, Notes::Unmap> notes;
  Backing backing;
  Ledger ledger;
  InodeTable table;
  Metering metering;
  AccountId account = 0;
  Fd directory;
};

struct NamedRules {
  const char* name;
  MemoryRules (*rules)();
};
inline void PrintTo(const NamedRules& rules, std::ostream* out) { *out << rules.name; }

}  // namespace limaquota
