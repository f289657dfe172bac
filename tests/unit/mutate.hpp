// Seeded random inputs for the parsers: valid ones with a few bytes changed, cut, doubled or mixed.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace limaquota {

// The same seed gives the same inputs. Thread safety: none.
class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t n) { return static_cast<size_t>(random_() % n); }

  // One of the seeds (never an empty list) after zero to five changes.
  std::string mutate(const std::vector<std::string>& seeds) {
    std::string text = seeds[below(seeds.size())];
    for (size_t changes = below(6); changes > 0; --changes) change(text, seeds);
    return text;
  }

 private:
  char byte() {
    static constexpr std::string_view likely = "0123456789.kKmMgGtTpPiIbB \t\r\n%-+max:[]{}&*\"'#";
    return below(3) == 0 ? static_cast<char>(below(256)) : likely[below(likely.size())];
  }

  void change(std::string& text, const std::vector<std::string>& seeds) {
    const size_t at = below(text.size() + 1);
    switch (below(6)) {
      case 0:
        text.insert(at, 1, byte());
        break;
      case 1:
        text.erase(at, 1 + below(4));
        break;
      case 2:
        if (at < text.size()) text[at] = byte();
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), below(16)));
        break;
      default: {
        const std::string& other = seeds[below(seeds.size())];
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
      }
    }
  }

  std::mt19937_64 random_;
};

}  // namespace limaquota
