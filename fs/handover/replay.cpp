#include "fs/handover/replay.hpp"

#include <utility>

namespace limaquota {
namespace {
// In the id of a request that the kernel sends again (FUSE_UNIQUE_RESEND, Linux 6.9).
constexpr uint64_t sent_again = uint64_t{1} << 63;
}  // namespace

Replay::~Replay() {
  if (note_ != nullptr) RequestNotes::give_back(*note_);
}

Replay::InService::InService(Replay& replay, uint64_t unique, Makes makes) : replay_(replay) {
  replay_.begin(unique, makes);
}

Replay::InService::~InService() { replay_.end(); }

void Replay::begin(uint64_t unique, Makes makes) {
  if (note_ == nullptr) note_ = notes_.requests.take();
  if (note_ == nullptr) return;
  const uint64_t plain = unique & ~sent_again;
  note_->set_intent({});
  note_->opened = 0;
  note_->served = notes_.process.restarts.load();
  if ((unique & sent_again) != 0) take_over(plain);
  note_->unique = plain;
  if (makes == Makes::no_file) close_opened_before();
}

// What the note of a dead thread says of this request goes to this one, before it is taken from there.
void Replay::take_over(uint64_t unique) {
  for (RequestNote& old : notes_.requests.used()) {
    if (old.unique != unique || &old == note_) continue;
    const IntentWords intent = old.intent();
    if (intent.kind != 0) {
      earlier_ = intents::intent_of(intent);
      note_->set_intent(intent);
    }
    note_->opened = old.opened.load();
    earlier_opened_ = note_->opened - 1;
    note_->unique = unique;
    old.unique = 0;
    return;
  }
}

void Replay::end() {
  close_opened_before();
  earlier_.reset();
  if (note_ != nullptr) note_->unique = 0;
}

void Replay::intend(const Intent& intent) {
  if (note_ != nullptr) note_->set_intent(intents::words_of(intent));
}

void Replay::note_opened(int fd) {
  if (note_ != nullptr) note_->opened = fd + 1;
}

void Replay::note_closed() { note_opened(-1); }

Fd Replay::opened_before() {
  const int fd = std::exchange(earlier_opened_, -1);
  if (fd < 0) return Fd();
  DescriptorNote& descriptor = notes_.descriptors.of(fd);
  if (descriptor.use() != DescriptorUse::passing && on_never_known_) on_never_known_(fd);
  descriptor.set_use(DescriptorUse::passing);
  return Fd(fd);
}

// Its note goes before it is closed: the number may be another file's at once.
void Replay::close_opened_before() {
  const Fd closing = opened_before();
  if (closing) note_closed();
}

}  // namespace limaquota
