#include "accounting/ledger.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

namespace limaquota {
namespace {

using namespace literals;

// Limits whose disk line lies `control` below the limit.
Limits limits_of(Bytes limit, Bytes control = 0_B) {
  Limits limits;
  limits.limit = limit;
  limits.control_reserve = control;
  return limits;
}

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest() {
    ledger.set_host_reserve(0_B);
    ledger.set_limits(vm, limits_of(10_MiB, 1_MiB), Ledger::LimitsFrom::own_file);
  }

  std::optional<Reservation> reserve(AccountId account, Bytes bytes, Line line = Line::disk) {
    return reserve({{account, bytes}}, line, unlimited_host);
  }
  std::optional<Reservation> reserve(const Claims& claims, Line line, const HostSample& host) {
    Reserved reserved = ledger.reserve(claims, line, host);
    if (!reserved.given) refusal = reserved.refused;
    return std::move(reserved.given);
  }
  // Charges bytes to an account whatever the limits say.
  void charge(AccountId account, Bytes before, Bytes after) {
    const Change change{account, before, after, 0_B, 0_B, 0};
    ledger.apply(&change, 1);
  }
  AccountFigures figures(std::string_view name, Bytes host_free = Bytes::unlimited()) const {
    return ledger.figures(name, host_free).value();
  }

  static constexpr HostSample unlimited_host{};
  Ledger ledger;
  const AccountId vm = ledger.open("vm");
  const AccountId other = ledger.open("other");
  const AccountId disk = ledger.open("_disks/data");
  Refused refusal;
};

TEST_F(LedgerTest, LeavingScopeRollsBack) {
  {
    const auto reservation = reserve(vm, 3_MiB);
    ASSERT_TRUE(reservation);
    EXPECT_EQ(figures("vm").reserved, 3_MiB);
    EXPECT_EQ(figures("vm").available, 7_MiB);
    EXPECT_EQ(figures("vm").writable, 6_MiB);
  }
  EXPECT_EQ(figures("vm").reserved, 0_B);
  EXPECT_EQ(figures("vm").used, 0_B);
}

TEST_F(LedgerTest, CommitTurnsItIntoUsageInOneStep) {
  auto reservation = reserve(vm, 3_MiB);
  const Change change{vm, 0_B, 2_MiB, 0_B, 64_KiB, 0};
  reservation->commit(&change, 1);
  EXPECT_EQ(figures("vm").used, 2_MiB);
  EXPECT_EQ(figures("vm").reserved, 64_KiB);
  EXPECT_EQ(figures("vm").peak, 2_MiB);
  reservation.reset();  // nothing is given back twice
  EXPECT_EQ(figures("vm").reserved, 64_KiB);
}

TEST_F(LedgerTest, AMovedReservationGivesBackOnce) {
  auto first = reserve(vm, 1_MiB);
  auto second = reserve(vm, 2_MiB);
  *first = std::move(*second);
  EXPECT_EQ(figures("vm").reserved, 2_MiB);
  second.reset();
  EXPECT_EQ(figures("vm").reserved, 2_MiB);
  first->roll_back();
  first->roll_back();
  EXPECT_EQ(figures("vm").reserved, 0_B);
}

TEST_F(LedgerTest, DisksStopAtTheDiskLineControlFilesAtTheLimitLessTheHand) {
  EXPECT_FALSE(reserve(vm, 9_MiB + 1_B));
  EXPECT_EQ(refusal.room, 9_MiB);
  EXPECT_EQ(refusal.by, RefusedBy::budget);
  EXPECT_TRUE(reserve(vm, 9_MiB));
  EXPECT_FALSE(reserve(vm, 10_MiB - Ledger::hand + 1_B, Line::control));
  EXPECT_TRUE(reserve(vm, 10_MiB - Ledger::hand, Line::control));
  EXPECT_FALSE(reserve(vm, 10_MiB + 1_B, Line::moving));
  EXPECT_TRUE(reserve(vm, 10_MiB, Line::moving));
  EXPECT_TRUE(reserve(vm, 1_GiB, Line::exempt));
}

TEST_F(LedgerTest, ATinyLimitStillLetsSomethingBeWritten) {
  ledger.set_limits(vm, limits_of(64_KiB), Ledger::LimitsFrom::own_file);
  EXPECT_TRUE(reserve(vm, 56_KiB));
  EXPECT_FALSE(reserve(vm, 57_KiB));
}

TEST_F(LedgerTest, AnUnlimitedAccountTakesAll) {
  EXPECT_TRUE(reserve(other, Bytes(uint64_t{1} << 60)));
  EXPECT_TRUE(figures("other").limit.is_unlimited());
  EXPECT_TRUE(figures("other").available.is_unlimited());
}

TEST_F(LedgerTest, TwoClaimsOnOnePayerMustFitTogether) {
  ledger.charge_to(disk, vm);
  EXPECT_FALSE(reserve({{vm, 5_MiB}, {disk, 5_MiB}}, Line::disk, unlimited_host));
  EXPECT_FALSE(reserve({{vm, 5_MiB}, {vm, 5_MiB}}, Line::disk, unlimited_host));
  const auto both = reserve({{vm, 5_MiB}, {disk, 4_MiB}}, Line::disk, unlimited_host);
  ASSERT_TRUE(both);
  EXPECT_EQ(figures("vm").reserved, 9_MiB);
}

TEST_F(LedgerTest, AllClaimsAreGivenOrNone) {
  ledger.set_limits(other, limits_of(1_MiB), Ledger::LimitsFrom::own_file);
  EXPECT_FALSE(reserve({{vm, 1_MiB}, {other, 2_MiB}}, Line::disk, unlimited_host));
  EXPECT_EQ(figures("vm").reserved, 0_B);
  EXPECT_EQ(figures("other").reserved, 0_B);
  EXPECT_FALSE(reserve(vm, Bytes::unlimited()));
}

TEST_F(LedgerTest, AttachingMovesUsageReservationsAndSlackDetachingGivesThemBack) {
  ledger.set_limits(disk, limits_of(1_MiB), Ledger::LimitsFrom::own_file);
  const Change change{disk, 0_B, 4_MiB, 0_B, 1_MiB, 0};
  ledger.apply(&change, 1);
  ledger.charge_to(disk, vm);
  EXPECT_EQ(figures("vm").used, 4_MiB);
  EXPECT_EQ(figures("vm").reserved, 1_MiB);
  EXPECT_EQ(figures("vm").peak, 4_MiB);
  EXPECT_EQ(figures("_disks/data").charged_to, "vm");
  EXPECT_EQ(figures("vm").growth_per_second, 0U);
  // The VM's limit holds, the disk's own rests.
  auto reservation = reserve(disk, 3_MiB);
  ASSERT_TRUE(reservation);
  EXPECT_FALSE(reserve(disk, 2_MiB));
  EXPECT_EQ(figures("vm").reserved, 4_MiB);
  ledger.charge_to(disk, std::nullopt);
  EXPECT_EQ(figures("vm").used, 0_B);
  EXPECT_EQ(figures("vm").reserved, 0_B);
  EXPECT_EQ(figures("_disks/data").reserved, 4_MiB);
  EXPECT_EQ(figures("_disks/data").state, AccountState::over);
  reservation.reset();  // ends where its account is now
  EXPECT_EQ(figures("_disks/data").reserved, 1_MiB);
}

TEST_F(LedgerTest, MovingChargesIgnoresLimits) {
  charge(other, 0_B, 20_MiB);
  ledger.move(other, vm, 20_MiB, 0_B);
  EXPECT_EQ(figures("other").used, 0_B);
  EXPECT_EQ(figures("vm").used, 20_MiB);
  EXPECT_EQ(figures("vm").state, AccountState::over);
  EXPECT_FALSE(reserve(vm, 1_B));
}

TEST_F(LedgerTest, TheHostReserveStopsDisksAndAQuarterOfItTheRest) {
  ledger.set_host_reserve(8_MiB);
  HostSample host = ledger.before_host_sample();
  host.free = 10_MiB;
  EXPECT_FALSE(reserve({{other, 3_MiB}}, Line::disk, host));
  EXPECT_EQ(refusal.by, RefusedBy::host);
  EXPECT_EQ(refusal.room, 2_MiB);
  EXPECT_TRUE(reserve({{other, 8_MiB}}, Line::control, host));
  EXPECT_TRUE(reserve({{other, 8_MiB}}, Line::exempt, host));
  EXPECT_FALSE(reserve({{other, 8_MiB + 1_B}}, Line::exempt, host));
  // Outstanding reservations of all accounts are included.
  const auto held = reserve({{vm, 1_MiB}}, Line::disk, host);
  EXPECT_FALSE(reserve({{other, 1_MiB + 1_B}}, Line::disk, host));
  EXPECT_TRUE(refusal.others_in_flight);
}

TEST_F(LedgerTest, AStaleHostSampleNeverCountsAByteTwiceNorMissesOne) {
  HostSample host = ledger.before_host_sample();
  host.free = 4_MiB;  // read before what follows
  auto reservation = reserve({{other, 3_MiB}}, Line::disk, host);
  const Change change{other, 0_B, 3_MiB, 0_B, 0_B, 0};
  reservation->commit(&change, 1);
  EXPECT_FALSE(reserve({{vm, 1_MiB + 1_B}}, Line::disk, host));
  EXPECT_TRUE(reserve({{vm, 1_MiB}}, Line::disk, host));
  // Frees and moves allocate nothing; a new sample sees the commit itself.
  charge(other, 3_MiB, 1_MiB);
  ledger.move(other, vm, 1_MiB, 0_B);
  EXPECT_TRUE(reserve({{vm, 1_MiB}}, Line::disk, host));
  host = ledger.before_host_sample();
  host.free = 1_MiB;
  EXPECT_TRUE(reserve({{vm, 1_MiB}}, Line::disk, host));
}

TEST_F(LedgerTest, ALoanAddsToTheLimitUntilItsTime) {
  Limits limits = limits_of(10_MiB, 1_MiB);
  limits.loan = Loan{5_MiB, 1000};
  ledger.set_limits(vm, limits, Ledger::LimitsFrom::own_file);
  ledger.set_time(999);
  EXPECT_EQ(figures("vm").limit, 15_MiB);
  EXPECT_EQ(figures("vm").loan, 5_MiB);
  EXPECT_TRUE(reserve(vm, 14_MiB));
  ledger.set_time(1000);
  EXPECT_EQ(figures("vm").limit, 10_MiB);
  EXPECT_FALSE(figures("vm").loan);
  EXPECT_FALSE(reserve(vm, 14_MiB));
}

TEST_F(LedgerTest, StatesFollowTheFigures) {
  const auto state = [&](Bytes host_free = Bytes::unlimited()) { return figures("vm", host_free).state; };
  EXPECT_EQ(state(), AccountState::ok);
  charge(vm, 0_B, Bytes((9_MiB).count() / 10 * 9 + 1));
  EXPECT_EQ(state(), AccountState::ok);
  charge(vm, figures("vm").used, Bytes((9_MiB).count() / 10 * 9 + 4096));
  EXPECT_EQ(state(), AccountState::warn);
  ledger.set_damaged(vm, true);
  EXPECT_EQ(state(), AccountState::damaged);
  EXPECT_EQ(state(1_KiB), AccountState::host_full);
  charge(vm, figures("vm").used, 9_MiB);
  EXPECT_EQ(state(), AccountState::full);
  EXPECT_EQ(figures("vm").writable, 0_B);
  charge(vm, 9_MiB, 10_MiB + 512_B);
  EXPECT_EQ(state(), AccountState::over);
  EXPECT_EQ(figures("vm").available, 0_B);
  ledger.set_outside(vm, true);
  EXPECT_EQ(state(), AccountState::outside);
  ledger.set_outside(vm, false);
  ledger.set_limits(vm, limits_of(Bytes::unlimited()),
                    Ledger::LimitsFrom::own_file);  // written anew: damaged no longer
  EXPECT_EQ(state(), AccountState::ok);
}

TEST_F(LedgerTest, AnAccountThatWasRefusedIsFullUntilMuchIsFreed) {
  charge(vm, 0_B, 9_MiB - 64_KiB);
  EXPECT_EQ(figures("vm").state, AccountState::warn);
  ledger.note_refusal(vm, 1_MiB, RefusedBy::budget);
  EXPECT_EQ(figures("vm").state, AccountState::full);
  charge(vm, 9_MiB - 64_KiB, 1_MiB);
  EXPECT_EQ(figures("vm").state, AccountState::ok);
}

TEST_F(LedgerTest, RefusalsAreCountedOnThePayer) {
  ledger.charge_to(disk, vm);
  ledger.note_refusal(disk, 4_KiB, RefusedBy::budget);
  ledger.note_refusal(vm, 1_MiB, RefusedBy::host);
  EXPECT_EQ(figures("vm").refused_writes, 2U);
  EXPECT_EQ(figures("vm").refused_bytes, (1_MiB + 4_KiB).count());
}

TEST_F(LedgerTest, ARefusalSaysWhetherWaitingMayHelp) {
  EXPECT_FALSE(reserve(vm, 20_MiB));
  EXPECT_FALSE(refusal.others_in_flight);
  const auto held = reserve(vm, 1_MiB);
  EXPECT_FALSE(reserve(vm, 20_MiB));
  EXPECT_TRUE(refusal.others_in_flight);
}

TEST_F(LedgerTest, DiskRecordsFollowChangesAndAttachment) {
  ledger.put_disk(7, {vm, "disk", {ImageFormat::raw, 100_MiB}, 0_B});
  ledger.put_disk(8, {disk, "datadisk", {ImageFormat::qcow2, 50_MiB}, 0_B});
  // A qcow2 image's file says nothing of its virtual size.
  const Change changes[] = {{vm, 0_B, 1_MiB, 0_B, 0_B, 7, 200_MiB}, {disk, 0_B, 0_B, 0_B, 0_B, 8, 1_B}};
  ledger.apply(changes, 2);
  ASSERT_EQ(figures("vm").disks.size(), 1U);
  EXPECT_EQ(figures("vm").disks[0].allocated, 1_MiB);
  EXPECT_EQ(figures("vm").virtual_size, 200_MiB);
  ledger.charge_to(disk, vm);
  ASSERT_EQ(figures("vm").disks.size(), 2U);
  EXPECT_EQ(figures("vm").disks[0].name, "_disks/data/datadisk");
  EXPECT_EQ(figures("vm").virtual_size, 250_MiB);
  ledger.drop_disk(8);
  EXPECT_EQ(figures("vm").disks.size(), 1U);
  EXPECT_EQ(ledger.host_figures(1_GiB).worst_case, 9_MiB);
}

TEST_F(LedgerTest, AClosedNameCanBeOpenedAnewWhileTheOldIdStillCounts) {
  auto reservation = reserve(vm, 1_MiB);
  ledger.close(vm);
  EXPECT_FALSE(ledger.find("vm"));
  const AccountId anew = ledger.open("vm");
  EXPECT_NE(anew, vm);
  ledger.close(vm);  // not the new one
  EXPECT_EQ(ledger.find("vm"), anew);
  const Change change{vm, 0_B, 1_MiB, 0_B, 0_B, 0};
  reservation->commit(&change, 1);
  EXPECT_EQ(figures("vm").used, 0_B);
}

TEST_F(LedgerTest, AWaiterWakesWhenAReservationEnds) {
  std::atomic<bool> woken = false;
  // Again and again: nobody knows when the waiter begins to wait.
  std::thread ends([&] {
    while (!woken) {
      auto reservation = reserve(vm, 1_MiB);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  ledger.wait_for_change(3'600'000);
  woken = true;
  ends.join();
}

}  // namespace
}  // namespace limaquota
