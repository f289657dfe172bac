#include "accounting/plan.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace limaquota {
namespace {

PlannedVm vm_of(Bytes disk, Bytes peak, Bytes steady) {
  PlannedVm vm;
  vm.virtual_size = vm.limit = disk;
  vm.peak = {peak, peak};
  vm.steady = {steady, steady};
  return vm;
}

PlanAnswer answer_for(std::vector<PlannedVm> vms, Bytes free, Bytes growth = Bytes(0),
                      Bytes images = Bytes(0)) {
  return plan_for(vms, images, {free, 1_GiB, growth});
}

const PlannedVm zfs = vm_of(4_GiB, 3_GiB, 3_GiB);
const PlannedVm kernel = [] {
  PlannedVm vm = vm_of(15_GiB, 13_GiB, 8_GiB);
  vm.temporary = true;
  return vm;
}();

TEST(Plan, SumsStandApart) {
  const PlanAnswer pair = answer_for({zfs, kernel}, 20_GiB);
  EXPECT_EQ(pair.virtual_size, 19_GiB);
  EXPECT_EQ(pair.peak, (Estimate{16_GiB, 16_GiB}));
  EXPECT_EQ(pair.steady.high, 11_GiB);
  EXPECT_EQ(pair.kept.high, 3_GiB);
  EXPECT_EQ(pair.worst_case, 19_GiB);
  EXPECT_EQ(pair.needed, 17_GiB);
  EXPECT_EQ(pair.left, 3_GiB);
  EXPECT_EQ(pair.missing, Bytes(0));
}

TEST(Plan, ThePeaksTheImagesAndTheReserveHaveToFit) {
  EXPECT_EQ(answer_for({zfs}, 4_GiB).missing, Bytes(0)) << "to the byte";
  EXPECT_EQ(answer_for({zfs}, 4_GiB - 1_B).missing, 1_B);
  EXPECT_EQ(answer_for({zfs}, 4_GiB - 1_B).fit, Fit::does_not_fit);
  EXPECT_EQ(answer_for({zfs}, 4_GiB, Bytes(0), 300_MiB).missing, 300_MiB);
  EXPECT_EQ(answer_for({}, 1_GiB).missing, Bytes(0)) << "nothing is added but the reserve";
}

TEST(Plan, AnEstimateIsJudgedByItsHighEnd) {
  PlannedVm vm = vm_of(10_GiB, 8_GiB, 3_GiB);
  vm.peak.high = 9_GiB;
  EXPECT_EQ(answer_for({vm}, 10_GiB).missing, Bytes(0));
  EXPECT_EQ(answer_for({vm}, 10_GiB).fit, Fit::very_tight);
  EXPECT_EQ(answer_for({vm}, 10_GiB - 1_B).fit, Fit::does_not_fit);
}

TEST(Plan, WhatExistingVmsMayGrowByIsOnlyInTheWorstCase) {
  const PlanAnswer answer = answer_for({zfs}, 20_GiB, 17_GiB);
  EXPECT_EQ(answer.missing, Bytes(0));
  EXPECT_EQ(answer.overcommitted, 2_GiB) << "4 + 17 + 1 of 20";
  EXPECT_EQ(answer_for({zfs}, 20_GiB, 15_GiB).overcommitted, Bytes(0));
  EXPECT_TRUE(answer_for({zfs}, 20_GiB, Bytes::unlimited()).overcommitted.is_unlimited());
}

TEST(Plan, TheWorstCaseIsTheLimitOrTheVirtualSize) {
  PlannedVm vm = vm_of(100_GiB, 3_GiB, 3_GiB);
  vm.limit = 10_GiB;
  EXPECT_EQ(vm.worst_case(), 10_GiB);
  vm.limit = Bytes::unlimited();
  EXPECT_EQ(vm.worst_case(), 100_GiB);
  vm.present = 20_GiB;
  EXPECT_EQ(vm.worst_case(), 80_GiB) << "what a disk occupies already is not added";
}

TEST(Plan, AnAdditionalDiskIsNotAskedForTwice) {
  PlannedVm vm = vm_of(10_GiB, 10_GiB, 10_GiB);
  vm.present = 6_GiB;
  EXPECT_EQ(answer_for({vm}, 5_GiB).missing, Bytes(0));
  EXPECT_EQ(answer_for({vm}, 5_GiB).peak.high, 10_GiB);
}

TEST(Plan, TightIsUnderTenPercent) {
  EXPECT_EQ(answer_for({zfs, kernel}, 50_GiB).fit, Fit::plenty);
  EXPECT_EQ(answer_for({zfs, kernel}, 30_GiB).fit, Fit::fits);
  EXPECT_EQ(answer_for({zfs, kernel}, 20_GiB).fit, Fit::tight) << "the worst case leaves nothing";
  EXPECT_EQ(answer_for({zfs, kernel}, 19_GiB).fit, Fit::fits)
      << "overcommitted, and 2 of 19 are left at the peak";
  EXPECT_EQ(answer_for({zfs, kernel}, 18_GiB).fit, Fit::tight);
  EXPECT_EQ(answer_for({zfs, kernel}, 17_GiB).fit, Fit::very_tight);
}

TEST(Plan, NothingOverflows) {
  const Bytes huge = Bytes::unlimited() - 1_B;
  const PlanAnswer answer = answer_for({vm_of(huge, huge, huge), vm_of(huge, huge, huge)}, huge, huge, huge);
  EXPECT_EQ(answer.fit, Fit::does_not_fit);
  EXPECT_TRUE(answer.needed.is_unlimited());
  EXPECT_TRUE(answer.overcommitted.is_unlimited());
}

// 120 MB was seen on ZFS 2.1.11; `zpool list` says 240M and 960M of files of 256 MiB and 1 GiB.
TEST(Plan, KnowsWhatZfsKeepsForItself) {
  EXPECT_EQ(zfs_mirror_usable(256_MiB), 120_MiB);
  EXPECT_EQ(zfs_mirror_usable(1_GiB), 960_MiB - 128_MiB);
  EXPECT_EQ(zfs_mirror_usable(16_GiB), 15872_MiB - 496_MiB) << "31 metaslabs of 512 MiB, less 1/32";
  EXPECT_EQ(zfs_mirror_usable(Bytes(0)), Bytes(0));
}

TEST(Plan, FindsThePoolThatHoldsAQuota) {
  const Bytes file = zfs_mirror_file_for(200_MiB);
  EXPECT_EQ(file, 357_MiB) << "11 metaslabs of 32 MiB and the labels";
  EXPECT_GE(zfs_mirror_usable(file), 200_MiB);
  for (Bytes smaller = 200_MiB; smaller < file; smaller += 1_MiB) {
    EXPECT_LT(zfs_mirror_usable(smaller), 200_MiB) << smaller.count();
  }
  EXPECT_GE(zfs_mirror_usable(zfs_mirror_file_for(3_GiB)), 3_GiB);
  EXPECT_TRUE(zfs_mirror_file_for(Bytes::unlimited()).is_unlimited());
}

}  // namespace
}  // namespace limaquota
