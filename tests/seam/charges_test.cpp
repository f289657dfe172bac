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

struct ChargedHome : SeamHome {
  ChargedHome()
      : SeamHome(MemoryRules::ext4()),
        files(backing),
        limits(backing, ledger, files),
        accounts(backing, ledger, limits, {}),
        charges(backing, ledger, table, accounts) {}
  Bytes used_by(const char* name) const { return ledger.figures(name, Bytes::unlimited())->used; }

  LimitFiles files;
  LimitStore limits;
  Accounts accounts;
  Charges charges;
};

constexpr NodeId inode = 77;

struct stat a_file() {
  struct stat st {};
  st.st_mode = S_IFREG;
  st.st_blocks = 8;
  return st;
}

TEST(ChargesTest, AnInodeWithTwoNamesCountsOnceInEachAccount) {
  ChargedHome home;
  const AccountId a = home.ledger.open("a");
  const AccountId b = home.ledger.open("b");
  const struct stat st = a_file();
  Changes changes;
  home.charges.add({inode, -1, st, "h"}, {a, Role::plain, false, false}, "x", changes);
  home.ledger.apply(changes.data(), changes.size());
  home.charges.set_holders(inode, {{a, 2}});
  home.charges.move_name({inode, -1, st, "h"}, a, {b, Role::plain, false, false}, "y");
  EXPECT_EQ(home.used_by("a"), 4_KiB);
  EXPECT_EQ(home.used_by("b"), 4_KiB);
  home.charges.move_name({inode, -1, st, "h"}, a, {b, Role::plain, false, false}, "x");
  EXPECT_EQ(home.used_by("a"), Bytes(0));
  EXPECT_EQ(home.used_by("b"), 4_KiB);
}

TEST(ChargesTest, ThreadsThatMoveItAtTheSameTimeLoseNothing) {
  ChargedHome home;
  const AccountId a = home.ledger.open("a");
  const AccountId b = home.ledger.open("b");
  const struct stat st = a_file();
  Changes changes;
  home.charges.add({inode, -1, st, "h"}, {a, Role::plain, false, false}, "x", changes);
  home.ledger.apply(changes.data(), changes.size());
  constexpr unsigned threads = 4;
  constexpr unsigned rounds = 500;
  home.charges.set_holders(inode, {{a, threads}});
  std::vector<std::thread> movers;
  for (unsigned i = 0; i < threads; ++i) {
    movers.emplace_back([&] {
      for (unsigned round = 0; round < rounds; ++round) {
        home.charges.move_name({inode, -1, st, "h"}, a, {b, Role::plain, false, false}, "x");
        home.charges.move_name({inode, -1, st, "h"}, b, {a, Role::plain, false, false}, "x");
      }
    });
  }
  for (std::thread& mover : movers) mover.join();
  EXPECT_EQ(home.used_by("a"), 4_KiB);
  EXPECT_EQ(home.used_by("b"), Bytes(0));
  EXPECT_EQ(home.charges.find(inode)->account, a);
}

}  // namespace
}  // namespace limaquota
