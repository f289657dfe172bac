// Numbers that the environment sets for tests.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace limaquota {

// The value of an environment variable as a number, or `otherwise`.
inline uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace limaquota
