// How fast an account grows: an exponentially weighted mean of the growth seen each tick, shrinking counted
// as no growth.
#pragma once

#include <cmath>
#include <cstdint>

#include "accounting/bytes.hpp"

namespace limaquota {

// Thread safety: none; the ledger's mutex guards it.
class Growth {
 public:
  // `used` now, `seconds` after the last call. A clock that did not move, or jumped, teaches nothing.
  void tick(Bytes used, double seconds) {
    if (!started_ || !(seconds > 0) || seconds > 3600) {
      start(used);
      return;
    }
    const double grown = static_cast<double>(minus_or_zero(used, last_).count());
    const double keep = std::exp(-seconds / time_constant);
    rate_ = rate_ * keep + grown / seconds * (1 - keep);
    if (rate_ < 1) rate_ = 0;
    last_ = used;
  }
  // What is there already is no growth.
  void start(Bytes used) {
    last_ = used;
    started_ = true;
  }
  uint64_t bytes_per_second() const { return static_cast<uint64_t>(rate_); }

 private:
  static constexpr double time_constant =
      5;  // seconds: a build's burst shows at once, and is forgotten in half a minute
  Bytes last_;
  bool started_ = false;
  double rate_ = 0;
};

}  // namespace limaquota
