// Fuzzing without a fuzzer's compiler: random inputs for LIMAQUOTA_FUZZ_SECONDS (default 2), made of good
// ones. The same LIMAQUOTA_SEED (default 1) gives the same inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/unit/mutate.hpp"

namespace limaquota::fuzz {

inline constexpr size_t longest_input = size_t{64} * 1024;

using Corpus = std::vector<std::string>;
// Makes the next input; what is over longest_input is cut off.
using Make = std::function<std::string(Mutator&)>;
// Looks at one input with EXPECT_...; returns true where the input was a good one.
using Check = std::function<bool(const std::string&)>;

// Checks inputs until the time is over or one fails: by an expectation, an exception, a signal, a sanitizer,
// or because it takes a minute. The failure names the seed and the input in hex. Inputs that are hardly ever
// good are a failure too, since then nothing but the first lines of the reader is tried.
void run(const Make& make, const Check& check);

// A text of the corpus with numbers replaced by the edges of integers, lines doubled, nested deeply,
// repeated, cut, with broken UTF-8 and single bytes changed.
std::string hostile_text(Mutator& random, const Corpus& corpus);
// Around a power of two more often than not.
uint64_t edge(Mutator& random);

}  // namespace limaquota::fuzz
