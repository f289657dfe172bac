#include "accounting/growth.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace limaquota {
namespace {

using namespace literals;

TEST(Growth, WhatIsThereAtTheStartIsNoGrowth) {
  Growth growth;
  growth.tick(100_GiB, 1);
  growth.tick(100_GiB, 1);
  EXPECT_EQ(growth.bytes_per_second(), 0U);
}

TEST(Growth, ComesToASteadyRateWithin5Percent) {
  Growth growth;
  Bytes used;
  for (int second = 0; second < 30; ++second) growth.tick(used += 10_MiB, 1);
  const auto rate = static_cast<double>(growth.bytes_per_second());
  EXPECT_NEAR(rate, static_cast<double>((10_MiB).count()), static_cast<double>((10_MiB).count()) / 20);
}

TEST(Growth, DoesNotDependOnHowOftenItTicks) {
  Growth often;
  Growth rarely;
  Bytes used;
  for (int tick = 0; tick < 300; ++tick) {
    used += 1_MiB;
    often.tick(used, 0.1);
    if (tick % 10 == 9) rarely.tick(used, 1);
  }
  EXPECT_NEAR(static_cast<double>(often.bytes_per_second()), static_cast<double>(rarely.bytes_per_second()),
              static_cast<double>((1_MiB).count()));
}

TEST(Growth, IsForgottenInTwoMinutesOfQuietToTheLastByte) {
  Growth growth;
  Bytes used;
  for (int second = 0; second < 60; ++second) growth.tick(used += 1_GiB, 1);
  for (int second = 0; second < 120; ++second) growth.tick(used, 1);
  EXPECT_EQ(growth.bytes_per_second(), 0U);
}

TEST(Growth, ShrinkingIsNoGrowthAndIsNotRegrown) {
  Growth growth;
  growth.tick(1_GiB, 1);
  growth.tick(0_B, 1);
  EXPECT_EQ(growth.bytes_per_second(), 0U);
  growth.tick(0_B, 1);
  EXPECT_EQ(growth.bytes_per_second(), 0U);
}

TEST(Growth, AClockThatJumpsOrStandsTeachesNothing) {
  for (const double seconds : {0.0, -5.0, -1e18, 1e18, 3601.0, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity()}) {
    Growth growth;
    Bytes used;
    for (int second = 0; second < 30; ++second) growth.tick(used += 10_MiB, 1);
    const uint64_t before = growth.bytes_per_second();
    growth.tick(used += 100_GiB, seconds);
    EXPECT_EQ(growth.bytes_per_second(), before) << seconds;
    // Nor is what grew meanwhile put into the next second.
    growth.tick(used += 10_MiB, 1);
    EXPECT_LE(growth.bytes_per_second(), (11_MiB).count()) << seconds;
  }
}

TEST(Growth, StaysANumberAtTheExtremes) {
  Growth growth;
  growth.tick(0_B, 1);
  growth.tick(Bytes::unlimited(), 1e-9);
  EXPECT_GT(growth.bytes_per_second(), (1_GiB).count());
  for (int second = 0; second < 3000; ++second) growth.tick(Bytes::unlimited(), 1);
  EXPECT_EQ(growth.bytes_per_second(), 0U);
}

}  // namespace
}  // namespace limaquota
