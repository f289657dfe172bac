// Sizes and limit files.
#include "accounting/limits.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>

#include "accounting/size_text.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace limaquota::fuzz {
namespace {

using Wide = unsigned __int128;

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

struct Between {
  Wide low, high;
};

// Reads a size from its end, and its fraction only to 18 digits: the true value lies between the two. Nothing
// where the text has not a size's form.
std::optional<Between> slow_size(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto drop = [&](char last) {
    if (!text.ends_with(last)) return false;
    text.pop_back();
    return true;
  };
  drop('B');
  drop('I');
  Wide unit = 1, one = 1024;
  for (const char letter : std::string_view("KMGTP")) {
    if (drop(letter)) {
      unit = one;
      break;
    }
    one *= 1024;
  }
  drop(' ');
  const size_t point = text.find('.');
  std::string fraction = point == std::string::npos ? "0" : text.substr(point + 1);
  std::string whole = text.substr(0, point);
  if (!all_digits(whole) || !all_digits(fraction)) return std::nullopt;
  whole.erase(0, whole.find_first_not_of('0'));
  if (whole.size() > 20) whole = std::string(20, '9');  // too large by any unit
  const bool is_cut = fraction.size() > 18;
  fraction.resize(18, '0');
  Wide value = 0;
  for (const char c : whole) value = value * 10 + static_cast<unsigned>(c - '0');
  const Wide part = std::stoull(fraction);
  const Wide parts = 1'000'000'000'000'000'000;
  return Between{value * unit + part * unit / parts, value * unit + (part + (is_cut ? 1 : 0)) * unit / parts};
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

bool check_size(const std::string& text) {
  const std::optional<Bytes> size = parse_size(text);
  const std::optional<Between> slow = slow_size(text);
  const Wide unlimited = Bytes::unlimited().count();
  if (!size) {
    EXPECT_TRUE(!slow || slow->high >= unlimited) << "no size: " << text;
    return false;
  }
  EXPECT_TRUE(slow && slow->low <= size->count() && size->count() <= slow->high && slow->low < unlimited)
      << text << " is " << size->count();
  EXPECT_EQ(parse_size(std::to_string(size->count())), size);
  const std::string shown = format_size(*size);
  const std::optional<Bytes> shown_size = parse_size(shown);
  // What is shown for people is rounded, the largest sizes to one that is too large.
  EXPECT_TRUE(shown_size || shown == "16384 PiB") << shown;
  if (shown_size) {
    EXPECT_EQ(format_size(*shown_size), shown);
  }
  return true;
}

TEST(FuzzSizeText, MeansWhatASlowReaderSays) {
  const Corpus corpus = {"15GiB",
                         "1.5 T",
                         "0.25MiB",
                         "18446744073709551614",
                         "512",
                         "9 PiB",
                         "16383.9p",
                         "007kb",
                         "0.00000000000000088817841970012523233890533447265625P"};
  run([&](Mutator& random) { return hostile_text(random, corpus); }, check_size);
}

const Limits current{9_GiB, 80, 32_MiB, Loan{512_MiB, 1763841600}};

void check_error(const ParseError& error) {
  EXPECT_TRUE(!error.message.empty() && error.message.size() < 200 && is_printable(error.message))
      << error.message;
}

void check_host_reserve(const std::string& text) {
  const Parsed<Bytes> parsed = parse_host_reserve(text);
  const Bytes* reserve = std::get_if<Bytes>(&parsed);
  if (reserve == nullptr) return check_error(std::get<ParseError>(parsed));
  EXPECT_FALSE(reserve->is_unlimited());
  const Parsed<Bytes> again = parse_host_reserve(host_reserve_text(*reserve));
  EXPECT_TRUE(std::get_if<Bytes>(&again) != nullptr && std::get<Bytes>(again) == *reserve);
}

void check_in_force(const Limits& limits, int64_t now) {
  const Bytes whole = limits.effective_limit(now);
  EXPECT_GE(whole, limits.limit);
  EXPECT_LE(limits.effective_control_reserve(now),
            whole.is_unlimited() ? limits.control_reserve.value_or(0_B) : Bytes(whole.count() / 2));
}

bool check_limits(const std::string& text) {
  check_host_reserve(text);
  const Parsed<Limits> parsed = parse_limits(text, current);
  const Limits* limits = std::get_if<Limits>(&parsed);
  if (limits == nullptr) {
    EXPECT_FALSE(is_lone_size(text));
    check_error(std::get<ParseError>(parsed));
    return false;
  }
  EXPECT_LE(text.size(), 4096u);
  EXPECT_TRUE(!limits->warn_percent || (*limits->warn_percent >= 1 && *limits->warn_percent <= 100));
  EXPECT_TRUE(!limits->loan || (limits->loan->until >= 0 && !limits->loan->amount.is_unlimited()));
  const Parsed<Limits> again = parse_limits(limits_text(*limits), Limits{});
  EXPECT_TRUE(std::get_if<Limits>(&again) != nullptr && std::get<Limits>(again) == *limits)
      << limits_text(*limits);
  Limits expected = is_lone_size(text) ? current : std::get<Limits>(parse_limits(text, Limits{}));
  expected.limit = limits->limit;
  EXPECT_EQ(*limits, expected) << "only a lone size keeps what was there before";
  for (const int64_t now : {int64_t{0}, limits->loan ? limits->loan->until : 0}) check_in_force(*limits, now);
  return true;
}

TEST(FuzzLimitsText, IsReadBackAsItIsWritten) {
  const Corpus corpus = {limits_text(current),
                         "15GiB\n",
                         "max\n",
                         "limit 5 TiB\nwarn 1%\n",
                         "limit max\r\n\n\tcontrol_reserve 0\n",
                         "loan 1.5G until 9223372036854775807\n",
                         "reserve 2GiB\n"};
  run([&](Mutator& random) { return hostile_text(random, corpus); }, check_limits);
}

}  // namespace
}  // namespace limaquota::fuzz
