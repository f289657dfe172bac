// The ledger against a slow model, and under many threads.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "accounting/ledger.hpp"

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

// One inode and what is charged for it.
struct ModelInode {
  AccountId account = 0;
  Bytes charge, slack;
};

// The model adds everything up anew for each figure.
struct Model {
  std::vector<ModelInode> inodes;
  std::vector<std::pair<AccountId, Bytes>> in_flight;
  std::array<Limits, 4> limits;
  std::array<std::optional<AccountId>, 4> charged_to;

  AccountId payer(AccountId account) const { return charged_to[account].value_or(account); }
  Bytes used(AccountId account) const {
    return sum(
        account, [](const ModelInode& i) { return i.charge; }, false);
  }
  Bytes reserved(AccountId account) const {
    return sum(
        account, [](const ModelInode& i) { return i.slack; }, true);
  }
  bool fits(AccountId account, Bytes bytes) const {
    const AccountId pays = payer(account);
    const Bytes limit = limits[pays].limit;
    const Bytes line = std::min(limit - std::min(Ledger::hand, Bytes(limit.count() / 8)),
                                limit - limits[pays].effective_control_reserve(0));
    return used(pays) + reserved(pays) + bytes <= line;
  }

 private:
  template <class Figure>
  Bytes sum(AccountId account, Figure figure, bool with_in_flight) const {
    Bytes bytes;
    for (const ModelInode& inode : inodes)
      if (inode.account == account || charged_to[inode.account] == account) bytes += figure(inode);
    for (const auto& [of, amount] : in_flight)
      if (with_in_flight && (of == account || charged_to[of] == account)) bytes += amount;
    return bytes;
  }
};

TEST(LedgerProperty, AgreesWithASlowModelAfterEveryOperation) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](uint64_t end) { return random() % end; };
    Ledger ledger;
    Model model;
    const std::array<const char*, 4> names = {"a", "b", "_disks/c", "_disks/d"};
    for (size_t i = 0; i < 4; ++i) {
      model.limits[i] = limits_of(Bytes(below(64) << 18), Bytes(below(16) << 16));
      ASSERT_EQ(ledger.open(names[i]), i);
      ledger.set_limits(static_cast<AccountId>(i), model.limits[i], Ledger::LimitsFrom::own_file);
    }
    for (int i = 0; i < 12; ++i) model.inodes.push_back({static_cast<AccountId>(below(4)), 0_B, 0_B});
    std::vector<Reservation> reservations;  // those of model.in_flight
    for (int step = 0; step < 2000; ++step) {
      ModelInode& inode = model.inodes[below(model.inodes.size())];
      const uint64_t what = below(12);
      if (what < 6) {
        const Bytes bytes(below(1 << 20));
        const bool fits = model.fits(inode.account, bytes);
        auto given = ledger.reserve({{inode.account, bytes}}, Line::disk, HostSample{}).given;
        ASSERT_EQ(given.has_value(), fits) << "seed " << seed << ", step " << step;
        if (given && what < 3) {
          const Bytes charge = inode.charge + Bytes(below(bytes.count() + 1));
          const Bytes slack = inode.slack + bytes - (charge - inode.charge);
          const Change change{inode.account, inode.charge, charge, inode.slack, slack, 0};
          given->commit(&change, 1);
          inode = {inode.account, charge, slack};
        } else if (given && reservations.size() < 5) {
          reservations.push_back(std::move(*given));
          model.in_flight.emplace_back(inode.account, bytes);
        }
      } else if (what < 8 && !reservations.empty()) {
        const auto at = static_cast<std::ptrdiff_t>(below(reservations.size()));
        reservations.erase(reservations.begin() + at);
        model.in_flight.erase(model.in_flight.begin() + at);
      } else if (what == 8) {
        const Change change{inode.account, inode.charge, Bytes(inode.charge.count() / 4),
                            inode.slack,   0_B,          0};
        ledger.apply(&change, 1);
        inode = {inode.account, Bytes(inode.charge.count() / 4), 0_B};
      } else if (what == 9) {
        const auto to = static_cast<AccountId>(below(4));
        ledger.move(inode.account, to, inode.charge, inode.slack);
        inode.account = to;
      } else if (what == 10) {
        const auto disk = static_cast<AccountId>(2 + below(2));
        const auto vm = below(3);
        model.charged_to[disk] = vm == 2 ? std::nullopt : std::optional(static_cast<AccountId>(vm));
        ledger.charge_to(disk, model.charged_to[disk]);
      } else if (what == 11 && below(20) == 0) {
        model.limits[inode.account] = limits_of(Bytes(below(64) << 18), Bytes(below(16) << 16));
        ledger.set_limits(inode.account, model.limits[inode.account], Ledger::LimitsFrom::own_file);
      }
      const Snapshot snapshot = ledger.snapshot(Bytes::unlimited());
      Bytes all;
      for (const ModelInode& each : model.inodes) all += each.charge;
      ASSERT_EQ(snapshot.host.used, all) << "seed " << seed << ", step " << step;
      for (const AccountFigures& f : snapshot.accounts) {
        const AccountId id = *ledger.find(f.name);
        ASSERT_EQ(f.used, model.used(id)) << f.name << ", seed " << seed << ", step " << step;
        ASSERT_EQ(f.reserved, model.reserved(id)) << f.name << ", seed " << seed << ", step " << step;
      }
    }
  }
}

TEST(LedgerThreads, NoSnapshotEverShowsAnAccountAboveItsLimit) {
  Ledger ledger;
  ledger.set_host_reserve(1_MiB);
  const std::array<AccountId, 3> accounts = {ledger.open("a"), ledger.open("b"), ledger.open("_disks/c")};
  for (const AccountId account : accounts)
    ledger.set_limits(account, limits_of(4_MiB, 64_KiB), Ledger::LimitsFrom::own_file);
  ledger.charge_to(accounts[2], accounts[0]);
  std::atomic<uint64_t> given = 0;
  std::atomic<uint64_t> refused = 0;
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::array<Bytes, 3> charges;  // of this thread's own inode in each account
    for (int i = 0; i < 20000; ++i) {
      const size_t at = random() % 3;
      if (random() % 4 == 0) {
        const Change change{accounts[at], charges[at], 0_B, 0_B, 0_B, 0};
        ledger.apply(&change, 1);
        charges[at] = 0_B;
        continue;
      }
      const Bytes bytes(random() % (1 << 20));
      HostSample host = ledger.before_host_sample();
      host.free = 1_GiB;
      auto reservation = ledger
                             .reserve({{accounts[at], bytes}, {accounts[(at + 1) % 3], 4_KiB}},
                                      random() % 2 == 0 ? Line::disk : Line::control, host)
                             .given;
      ++(reservation ? given : refused);
      if (!reservation || random() % 4 == 0) continue;
      const Change change{accounts[at], charges[at], charges[at] + bytes, 0_B, 0_B, 0};
      reservation->commit(&change, 1);
      charges[at] += bytes;
    }
    for (size_t at = 0; at < 3; ++at) {
      const Change change{accounts[at], charges[at], 0_B, 0_B, 0_B, 0};
      ledger.apply(&change, 1);
    }
  };
  std::atomic<bool> ending = false;
  std::thread checker([&] {
    while (!ending) {
      const Snapshot snapshot = ledger.snapshot(1_GiB);
      Bytes sum;
      for (const AccountFigures& f : snapshot.accounts) {
        EXPECT_LE(f.used + f.reserved, f.limit) << f.name;
        if (!f.charged_to) sum += f.used;
      }
      EXPECT_EQ(snapshot.host.used, sum) << "one snapshot is one moment";
    }
  });
  std::vector<std::thread> workers;
  for (unsigned seed = 1; seed <= 8; ++seed) workers.emplace_back(work, seed);
  for (std::thread& worker : workers) worker.join();
  ending = true;
  checker.join();
  EXPECT_GT(given, 1000U);
  EXPECT_GT(refused, 1000U);
  for (const AccountFigures& f : ledger.snapshot(1_GiB).accounts) {
    EXPECT_EQ(f.used, 0_B) << f.name;
    EXPECT_EQ(f.reserved, 0_B) << f.name;
  }
}

}  // namespace
}  // namespace limaquota
