// Numbers that the environment sets for tests.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>

namespace limaquota {

// The value of an environment variable as a number, or `otherwise`.
inline uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

// Where random numbers start: LIMAQUOTA_SEED, and otherwise the same in each run but in the nightly one,
// where each tries others. Whoever starts there says so.
inline uint64_t random_seed() {
  const char* nightly = std::getenv("LIMAQUOTA_NIGHTLY");
  const bool others = nightly != nullptr && std::strcmp(nightly, "no") != 0;
  return environment_number("LIMAQUOTA_SEED", others ? std::random_device()() : 1);
}

}  // namespace limaquota
