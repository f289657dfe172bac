// A charge that several threads move by several names of its inode stays whole.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "fs/limits/limit_files.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/tree/accounts.hpp"
#include "fs/tree/charges.hpp"
#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

constexpr NodeId inode = 77;

// Two accounts, and a file of 4 KiB that is charged to the first.
struct ChargedHome : SeamHome {
  ChargedHome()
      : SeamHome(MemoryRules::ext4()),
        files(backing),
        limits(backing, ledger, files),
        accounts(backing, ledger, limits, {}),
        charges(ledger, table, accounts),
        a(ledger.open("a")),
        b(ledger.open("b")) {
    st.st_mode = S_IFREG;
    st.st_blocks = 8;
    Changes changes;
    charges.add(file(), {a, Role::plain, false, false}, "x", changes);
    ledger.apply(changes.data(), changes.size());
  }
  Charges::Found file() const { return {inode, -1, st, "h"}; }
  void move_name(AccountId from, AccountId to) {
    charges.move_name(file(), from, {to, Role::plain, false, false}, "x");
  }
  Bytes used_by(const char* name) const { return ledger.figures(name, Bytes::unlimited())->used; }

  LimitFiles files;
  LimitStore limits;
  Accounts accounts;
  Charges charges;
  const AccountId a, b;
  struct stat st {};
};

Holders names_in(AccountId account, unsigned names) {
  Holders holders;
  for (unsigned i = 0; i < names; ++i) (void)holders.add(account);
  return holders;
}

TEST(ChargesTest, AnInodeWithTwoNamesCountsOnceInEachAccount) {
  ChargedHome home;
  home.charges.set_holders(inode, names_in(home.a, 2));
  home.move_name(home.a, home.b);
  EXPECT_EQ(home.used_by("a"), 4_KiB);
  EXPECT_EQ(home.used_by("b"), 4_KiB);
  home.move_name(home.a, home.b);
  EXPECT_EQ(home.used_by("a"), Bytes(0));
  EXPECT_EQ(home.used_by("b"), 4_KiB);
}

TEST(ChargesTest, ThreadsThatMoveItAtTheSameTimeLoseNothing) {
  ChargedHome home;
  constexpr unsigned threads = 4;
  constexpr unsigned rounds = 500;
  home.charges.set_holders(inode, names_in(home.a, threads));
  std::vector<std::thread> movers;
  for (unsigned i = 0; i < threads; ++i) {
    movers.emplace_back([&] {
      for (unsigned round = 0; round < rounds; ++round) {
        home.move_name(home.a, home.b);
        home.move_name(home.b, home.a);
      }
    });
  }
  for (std::thread& mover : movers) mover.join();
  EXPECT_EQ(home.used_by("a"), 4_KiB);
  EXPECT_EQ(home.used_by("b"), Bytes(0));
  EXPECT_EQ(home.charges.find(inode)->account, home.a);
}

}  // namespace
}  // namespace limaquota
