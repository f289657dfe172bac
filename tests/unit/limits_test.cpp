#include "accounting/limits.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

Limits limits_of(Bytes limit, std::optional<unsigned> warn_percent = {},
                 std::optional<Bytes> control_reserve = {}, std::optional<Loan> loan = {}) {
  return {limit, warn_percent, control_reserve, loan};
}

const Limits current{9_GiB, 80, 32_MiB, Loan{512_MiB, 1763841600}};

Limits parsed(std::string_view text, const Limits& before = current) {
  const Parsed<Limits> result = parse_limits(text, before);
  if (const auto* error = std::get_if<ParseError>(&result)) ADD_FAILURE() << text << ": " << error->message;
  return result.index() == 0 ? std::get<Limits>(result) : Limits{};
}

std::string error_of(std::string_view text) {
  const Parsed<Limits> result = parse_limits(text, current);
  return result.index() == 1 ? std::get<ParseError>(result).message : "";
}

TEST(LimitsText, LinesSayEverything) {
  const Limits expected{15_GiB, 90, 64_MiB, Loan{512_MiB, 1763841600}};
  EXPECT_EQ(parsed("limit 15GiB\nwarn 90%\ncontrol_reserve 64MiB\nloan 512MiB until 1763841600\n"), expected);
  EXPECT_EQ(parsed("loan 512 MiB until 1763841600\nwarn 90%\nlimit 15 GiB\ncontrol_reserve 64M"), expected);
  EXPECT_EQ(
      parsed("\n \t limit\t15GiB \r\n\n  warn   90%\ncontrol_reserve 64MiB\nloan 512MiB  until 1763841600"),
      expected);
}

TEST(LimitsText, WhatIsAbsentIsTheDefault) {
  EXPECT_EQ(parsed("limit 15GiB\n"), limits_of(15_GiB));
  EXPECT_EQ(parsed("limit max\n"), Limits{});
  EXPECT_EQ(parsed("warn 50%\n"), limits_of(Bytes::unlimited(), 50));
}

TEST(LimitsText, ALoneSizeKeepsTheRest) {
  Limits expected = current;
  expected.limit = 15_GiB;
  for (const char* text : {"15GiB", "15GiB\n", "15 GiB\n", " 15360 MiB \n\n", "\n15g"}) {
    EXPECT_TRUE(is_lone_size(text)) << text;
    EXPECT_EQ(parsed(text), expected) << text;
  }
  expected.limit = Bytes::unlimited();
  EXPECT_TRUE(is_lone_size("max\n"));
  EXPECT_EQ(parsed("max\n"), expected);
  for (const char* text : {"", "\n", "limit 15GiB", "15GiB\n15GiB\n", "15\nGiB", "15GiB max", "maximum"}) {
    EXPECT_FALSE(is_lone_size(text)) << text;
  }
}

TEST(LimitsText, RefusesABadLine) {
  const std::vector<std::string> cases = {"",
                                          "\n",
                                          " \t\r\n",
                                          "limt 5GiB\n",
                                          "limit\n",
                                          "limit 5GiB 6GiB\n",
                                          "limit -1\n",
                                          "limit 1e9\n",
                                          "limit 20000P\n",
                                          "limit 5GiB\nlimit 5GiB\n",
                                          "warn 0%\n",
                                          "warn 101%\n",
                                          "warn 90\n",
                                          "warn %\n",
                                          "warn -5%\n",
                                          "warn 4294967386%\n",
                                          "warn 9.5%\n",
                                          "warn\n",
                                          "control_reserve max\n",
                                          "control_reserve\n",
                                          "loan 5MiB\n",
                                          "loan 5MiB until\n",
                                          "loan until 5\n",
                                          "loan 5MiB until -1\n",
                                          "loan 5MiB until 99999999999999999999\n",
                                          "loan max until 5\n",
                                          "loan 5MiB until 5 6\n",
                                          "loan 5MiB till 5\n",
                                          "5GiB\nwarn 90%\n",
                                          "limit 5GiB # mine\n",
                                          "Limit 5GiB\n",
                                          "15\nGiB\n",
                                          "max max",
                                          std::string("limit 5GiB\n\0", 12),
                                          std::string("5GiB\0", 5),
                                          std::string(4096, '\n') + "5GiB",
                                          std::string(5000, '9')};
  for (const std::string& text : cases) {
    EXPECT_NE(error_of(text), "") << "accepted: " << text;
    EXPECT_EQ(error_of(text).find('\n'), std::string::npos) << text;
  }
  EXPECT_EQ(parsed("5GiB" + std::string(4092, '\n')).limit, 5_GiB) << "4096 bytes are not too many";
}

TEST(LimitsText, AnErrorSaysWhereAndWhat) {
  EXPECT_EQ(error_of("limit 5GiB\nlimt 6GiB\n"),
            "line 2: unknown key 'limt' (limit, warn, control_reserve, loan)");
  EXPECT_EQ(error_of("limit x\n"), "line 1: 'x' is no size (as 15GiB, or max)");
  EXPECT_EQ(error_of("\x1b[2J" + std::string(100, 'a') + " 1\n"),
            "line 1: unknown key '?[2J" + std::string(28, 'a') + "...' (limit, warn, control_reserve, loan)");
}

TEST(LimitsText, IsCanonical) {
  EXPECT_EQ(limits_text(Limits{}), "limit max\n");
  EXPECT_EQ(limits_text(current),
            "limit 9GiB\nwarn 80%\ncontrol_reserve 32MiB\nloan 512MiB until 1763841600\n");
  EXPECT_EQ(limits_text(limits_of(Bytes((15ULL << 30) + 1))), "limit 16106127361\n");
  EXPECT_EQ(limits_text(limits_of(1536_MiB)), "limit 1536MiB\n");
  EXPECT_EQ(limits_text(limits_of(0_B)), "limit 0\n");
}

Limits random_limits(std::mt19937_64& random) {
  const auto size = [&] { return Bytes((random() >> random() % 64) / 2 << (random() % 2 * 10)); };
  Limits limits;
  if (random() % 8 != 0) limits.limit = size();
  if (random() % 2 != 0) limits.warn_percent = static_cast<unsigned>(1 + random() % 100);
  if (random() % 2 != 0) limits.control_reserve = size();
  if (random() % 2 != 0) limits.loan = Loan{size(), static_cast<int64_t>(random() >> 1)};
  return limits;
}

TEST(LimitsText, ReadsItsOwnTextBack) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    const Limits limits = random_limits(random);
    ASSERT_EQ(parsed(limits_text(limits)), limits) << limits_text(limits);
    const Bytes reserve(random() / 2 >> random() % 60);
    ASSERT_EQ(std::get<Bytes>(parse_host_reserve(host_reserve_text(reserve))), reserve);
  }
}

TEST(LimitsText, SurvivesMutatedTexts) {
  const std::vector<std::string> seeds = {
      limits_text(current),   "15GiB\n",       "max\n", "limit 5 TiB\nwarn 1%\n",
      "loan 1.5G until 99\n", "reserve 2GiB\n"};
  Mutator mutator(19);
  int accepted = 0;
  for (int i = 0; i < 50000; ++i) {
    const std::string text = mutator.mutate(seeds);
    const Parsed<Limits> result = parse_limits(text, current);
    const Parsed<Bytes> reserve = parse_host_reserve(text);
    if (const Bytes* size = std::get_if<Bytes>(&reserve)) {
      ASSERT_EQ(std::get<Bytes>(parse_host_reserve(host_reserve_text(*size))), *size);
    }
    if (result.index() == 1) {
      ASSERT_FALSE(std::get<ParseError>(result).message.empty());
      continue;
    }
    ++accepted;
    const Limits& limits = std::get<Limits>(result);
    ASSERT_EQ(parsed(limits_text(limits)), limits) << text;
    ASSERT_TRUE(!limits.warn_percent || (*limits.warn_percent >= 1 && *limits.warn_percent <= 100));
    ASSERT_TRUE(limits.control_reserve != Bytes::unlimited());
    ASSERT_LE(limits.effective_control_reserve(50), limits.effective_limit(50));
  }
  EXPECT_GT(accepted, 1000);
}

TEST(HostReserve, IsALineOrALoneSize) {
  EXPECT_EQ(std::get<Bytes>(parse_host_reserve("reserve 2GiB\n")), 2_GiB);
  EXPECT_EQ(std::get<Bytes>(parse_host_reserve("  2 GiB")), 2_GiB);
  EXPECT_EQ(std::get<Bytes>(parse_host_reserve("0")), 0_B);
  for (const char* text :
       {"", "max", "reserve max", "reserve", "reserve 1GiB\nreserve 1GiB\n", "limit 1GiB", "1\n2"}) {
    EXPECT_EQ(parse_host_reserve(text).index(), 1u) << text;
  }
  EXPECT_EQ(host_reserve_text(default_host_reserve), "reserve 1GiB\n");
}

TEST(Limits, ALoanCountsUntilItsMoment) {
  const Limits limits{1_GiB, {}, {}, Loan{512_MiB, 100}};
  EXPECT_EQ(limits.effective_limit(99), 1536_MiB);
  EXPECT_EQ(limits.effective_limit(100), 1_GiB);
  const Limits unlimited{Bytes::unlimited(), {}, {}, Loan{512_MiB, 100}};
  EXPECT_TRUE(unlimited.effective_limit(99).is_unlimited());
  const Limits huge{Bytes(~uint64_t{0} - 5), {}, {}, Loan{512_MiB, 100}};
  EXPECT_TRUE(huge.effective_limit(0).is_unlimited());
}

TEST(Limits, TheControlReserveIsOnePercentWithinBounds) {
  EXPECT_EQ(limits_of(10_GiB).effective_control_reserve(0), Bytes((10ULL << 30) / 100));
  EXPECT_EQ(limits_of(1_GiB).effective_control_reserve(0), 16_MiB);
  EXPECT_EQ(limits_of(100_GiB).effective_control_reserve(0), 256_MiB);
  EXPECT_EQ(limits_of(20_MiB).effective_control_reserve(0), 10_MiB);
  EXPECT_EQ(limits_of(0_B).effective_control_reserve(0), 0_B);
  EXPECT_EQ(Limits{}.effective_control_reserve(0), 0_B);
  EXPECT_EQ(limits_of(10_GiB, {}, 64_MiB).effective_control_reserve(0), 64_MiB);
  EXPECT_EQ(limits_of(100_MiB, {}, 64_MiB).effective_control_reserve(0), 50_MiB);
  EXPECT_EQ(limits_of(Bytes::unlimited(), {}, 64_MiB).effective_control_reserve(0), 64_MiB);
}

}  // namespace
}  // namespace limaquota
