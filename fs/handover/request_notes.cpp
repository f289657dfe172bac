#include "fs/handover/request_notes.hpp"

#include <algorithm>

namespace limaquota {

void RequestNote::set_intent(const IntentWords& intent) {
  first_ = intent.first;
  second_ = intent.second;
  third_ = intent.third;
  kind_ = intent.kind;
}

IntentWords RequestNote::intent() const { return {kind_, first_, second_, third_}; }

RequestNote* RequestNotes::take() {
  for (uint32_t i = 0; i < most; ++i) {
    if (notes_[i].unique != 0 || notes_[i].taken_.exchange(true)) continue;
    uint32_t used = used_;
    while (used <= i && !used_.compare_exchange_weak(used, i + 1)) {
    }
    return &notes_[i];
  }
  return nullptr;
}

void RequestNotes::release_all(uint32_t restarts) {
  constexpr uint32_t remembered_restarts = 1000;
  for (RequestNote& one : used()) {
    one.taken_ = false;
    // Answered in the moment of the kill: it never comes again.
    if (restarts - one.served > remembered_restarts) one.unique = 0;
  }
}

bool RequestNotes::is_opened(int fd) const {
  return std::any_of(notes_, notes_ + used_,
                     [&](const RequestNote& one) { return one.unique != 0 && one.opened == fd + 1; });
}

void RequestNotes::forget_opened(int fd) {
  for (RequestNote& one : used()) {
    int known = fd + 1;
    one.opened.compare_exchange_strong(known, 0);
  }
}

}  // namespace limaquota
