#include "accounting/size_text.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

TEST(SizeText, ReadsWhatLimaReads) {
  const std::vector<std::pair<const char*, uint64_t>> cases = {
      {"0", 0},
      {"42", 42},
      {"42B", 42},
      {"1k", 1024},
      {"1KB", 1024},
      {"1KiB", 1024},
      {"1 kib", 1024},
      {"15GiB", 15ULL << 30},
      {"15 GiB", 15ULL << 30},
      {"100gb", 100ULL << 30},
      {"1.5G", 3ULL << 29},
      {"0.5MiB", 1ULL << 19},
      {"2T", 2ULL << 40},
      {"3p", 3ULL << 50},
      {"007M", 7ULL << 20},
      {"16383P", 16383ULL << 50},
      {"18446744073709551614", ~uint64_t{0} - 1},
  };
  for (const auto& [text, bytes] : cases) EXPECT_EQ(parse_size(text), Bytes(bytes)) << text;
}

TEST(SizeText, RoundsAFractionDownToWholeBytes) {
  EXPECT_EQ(parse_size("1.9"), 1_B);
  EXPECT_EQ(parse_size("0.1K"), 102_B);
  EXPECT_EQ(parse_size("0.0009765624K"), 0_B);
  EXPECT_EQ(parse_size("0.0009765625K"), 1_B);
  // 2^-50 has fifty digits; all of them count.
  const std::string digits = "0.00000000000000088817841970012523233890533447265625";
  EXPECT_EQ(parse_size(digits + "P"), 1_B);
  EXPECT_EQ(parse_size(digits.substr(0, digits.size() - 1) + "4P"), 0_B);
  EXPECT_EQ(parse_size("1." + std::string(10000, '9') + "K"), 2047_B);
}

TEST(SizeText, RefusesWhatIsNoSize) {
  const std::vector<std::string> cases = {"",
                                          " ",
                                          "-1",
                                          "+1",
                                          "1e9",
                                          "12 XB",
                                          "20000P",
                                          "16384P",
                                          "1.",
                                          ".5",
                                          "1..5",
                                          "1.5.",
                                          "1  K",
                                          " 1",
                                          "1KK",
                                          "1KBB",
                                          "1Ki B",
                                          "1 K ",
                                          "max",
                                          "0x10",
                                          "1,5G",
                                          "1_000",
                                          "K",
                                          "\xef\xbc\x91",
                                          "1\n",
                                          "1\t",
                                          std::string("1\0", 2),
                                          "inf",
                                          "nan",
                                          "1BK",
                                          "1iK",
                                          "18446744073709551616",
                                          "18446744073709551615",
                                          "99999999999999999999999",
                                          "16383.99999999999999999999999999999999999999999P0"};
  for (const std::string& text : cases) EXPECT_EQ(parse_size(text), std::nullopt) << text;
}

TEST(SizeText, IsShortForPeople) {
  const std::vector<std::pair<uint64_t, const char*>> cases = {
      {0, "0 B"},
      {512, "512 B"},
      {1023, "1023 B"},
      {1024, "1 KiB"},
      {3ULL << 29, "1.5 GiB"},
      {25ULL << 29, "12.5 GiB"},
      {(1ULL << 30) - 1, "1023.9 MiB"},
      {(1ULL << 20) - 1, "1023.9 KiB"},
      {100ULL << 30, "100 GiB"},
      {1ULL << 62, "4096 PiB"},
      {~uint64_t{0} - 1, "16384 PiB"},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_size(Bytes(bytes)), text);
  EXPECT_EQ(format_size(Bytes::unlimited()), "max");
}

TEST(SizeText, ForPeopleIsWithinATenthOfTheUnit) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t value = (random() >> 1) >> (random() % 63);
    const std::optional<Bytes> back = parse_size(format_size(Bytes(value)));
    ASSERT_TRUE(back) << value;
    const uint64_t distance = back->count() > value ? back->count() - value : value - back->count();
    ASSERT_LE(distance, value / 10) << value << " is shown as " << format_size(Bytes(value));
  }
}

TEST(SizeText, SurvivesMutatedTexts) {
  const std::vector<std::string> seeds = {"15GiB", "1.5 T", "0.25MiB", "18446744073709551614",
                                          "512",   "9 PiB"};
  Mutator mutator(11);
  int accepted = 0;
  for (int i = 0; i < 50000; ++i) {
    const std::string text = mutator.mutate(seeds);
    const std::optional<Bytes> size = parse_size(text);
    if (!size) continue;
    ++accepted;
    ASSERT_FALSE(size->is_unlimited()) << text;
    ASSERT_TRUE(text[0] >= '0' && text[0] <= '9') << text;
    ASSERT_EQ(parse_size(std::to_string(size->count())), size);
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace limaquota
