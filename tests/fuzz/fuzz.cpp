#include "tests/fuzz/fuzz.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

#include "tests/environment.hpp"

namespace limaquota::fuzz {
namespace {

constexpr unsigned longest_seconds =
    60;  // for one input: a thousand times what any takes, so not a test of speed

// What the process that checks tells the one that waits for it, also by dying.
struct Record {
  uint64_t inputs = 0;
  uint64_t good = 0;
  size_t size = 0;  // of the input that is being checked
  std::array<char, longest_input> input{};

  std::string hex() const {
    std::string digits;
    for (size_t i = 0; i < size; ++i) digits += fmt::format("{:02x}", static_cast<unsigned char>(input[i]));
    return digits;
  }
};

// noexcept: what throws ends the process, as a signal does.
[[noreturn]] void check_inputs(Record& record, uint64_t seed, std::chrono::seconds time, const Make& make,
                               const Check& check) noexcept {
  Mutator random(seed);
  const auto end = std::chrono::steady_clock::now() + time;
  while (!testing::Test::HasFailure() && std::chrono::steady_clock::now() < end) {
    std::string input = make(random);
    input.resize(std::min(input.size(), longest_input));
    std::memcpy(record.input.data(), input.data(), input.size());
    record.size = input.size();
    ++record.inputs;
    ::alarm(longest_seconds);
    if (check(input)) ++record.good;
    ::alarm(0);
  }
  std::exit(testing::Test::HasFailure() ? 1 : 0);  // with destructors, so that a sanitizer finds leaks
}

void replace_number(Mutator& random, std::string& text) {
  const size_t first = text.find_first_of("0123456789", random.below(text.size() + 1));
  if (first == std::string::npos) return;
  const size_t end = std::min(text.find_first_not_of("0123456789", first), text.size());
  std::string number = std::to_string(edge(random));
  if (random.below(8) == 0) number += "0";  // beyond 64 bits
  text.replace(first, end - first, number);
}

void double_a_line(Mutator& random, std::string& text) {
  const size_t before = text.rfind('\n', random.below(text.size() + 1));
  const size_t first = before == std::string::npos ? 0 : before + 1;
  const size_t end = std::min(text.find('\n', first), text.size());
  const std::string line = text.substr(first, end - first) + "\n";
  text.insert(random.below(4) == 0 ? 0 : first, line);
}

// Few or hundreds: YAML readers give up somewhere in between.
size_t some(Mutator& random) { return 1 + random.below(random.below(4) == 0 ? 600 : 8); }

void nest(Mutator& random, std::string& text) {
  static constexpr std::array<std::array<std::string_view, 2>, 7> shells = {
      {{"[", "]"}, {"{a: ", "}"}, {"{? ", "}"}, {"- ", ""}, {"? ", ""}, {"a:\n ", ""}, {"!!a &a ", ""}}};
  const auto& [open, close] = shells[random.below(shells.size())];
  const size_t first = random.below(text.size() + 1);
  const size_t end = first + random.below(text.size() - first + 1);
  const size_t depth = some(random);
  std::string before, after;
  for (size_t i = 0; i < depth; ++i) before += open;
  for (size_t i = 0; i < depth; ++i) after += close;
  text.insert(end, after);
  text.insert(first, before);
}

void repeat(Mutator& random, std::string& text) {
  const size_t at = random.below(text.size() + 1);
  const std::string part = text.substr(at, 1 + random.below(24));
  std::string parts;
  for (size_t i = some(random); i > 0; --i) parts += part;
  text.insert(at, parts);
}

void break_utf8(Mutator& random, std::string& text) {
  using namespace std::string_view_literals;
  static constexpr std::array<std::string_view, 10> pieces = {
      "\xff"sv,         "\xc3"sv,     "\xe2\x82"sv,     "\x80"sv,    "\xed\xa0\x80"sv, "\xf4\x90\x80\x80"sv,
      "\xef\xbb\xbf"sv, "\xff\xfe"sv, "\0\0\xfe\xff"sv, "\xc2\x85"sv};
  // At the front some of them say in which encoding the rest is.
  text.insert(random.below(2) == 0 ? 0 : random.below(text.size() + 1), pieces[random.below(pieces.size())]);
}

}  // namespace

void run(const Make& make, const Check& check) {
  const uint64_t seed = environment_number("LIMAQUOTA_SEED", 1);
  const std::chrono::seconds time(environment_number("LIMAQUOTA_FUZZ_SECONDS", 2));
  void* shared = ::mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& record = *new (shared) Record;
  std::fflush(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) check_inputs(record, seed, time, make, check);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status)) ADD_FAILURE() << ::strsignal(WTERMSIG(status));
  EXPECT_EQ(status, 0) << "LIMAQUOTA_SEED=" << seed << ", input " << record.inputs << ": " << record.hex();
  EXPECT_GE(record.good * 1000, record.inputs) << "hardly any input is good";
  std::printf("%llu inputs, %llu of them good\n", static_cast<unsigned long long>(record.inputs),
              static_cast<unsigned long long>(record.good));
  ::munmap(shared, sizeof(Record));
}

std::string hostile_text(Mutator& random, const Corpus& corpus) {
  std::string text = random.mutate(corpus);
  for (size_t changes = random.below(4); changes > 0; --changes) {
    switch (random.below(8)) {
      case 0:
        double_a_line(random, text);
        break;
      case 1:
        nest(random, text);
        break;
      case 2:
        repeat(random, text);
        break;
      case 3:
        break_utf8(random, text);
        break;
      case 4:
        text.resize(random.below(text.size() + 1));
        break;
      default:
        replace_number(random, text);
    }
  }
  return text;
}

uint64_t edge(Mutator& random) {
  const uint64_t power = uint64_t{1} << random.below(64);
  switch (random.below(4)) {
    case 0:
      return power;
    case 1:
      return power - 1;
    case 2:
      return ~power + 2;  // close below 2^64
    default:
      return random.below(power);
  }
}

}  // namespace limaquota::fuzz
