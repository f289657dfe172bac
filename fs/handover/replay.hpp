// A request that comes again, after its worker died: reads the intent that the dead worker noted, and notes
// that of this worker, which may die as well (fs/handover/intent.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <variant>

#include "fs/handover/intent.hpp"
#include "fs/handover/notes.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// Of one thread that serves, for one request after the other. Thread safety: of that thread alone.
//
// An operation asks before it does anything: `earlier<TakesNameAway>()` has what was noted of this very
// request before, or nothing, as a rule. And just before its system call it says what stands there:
// `intend(TakesNameAway{id})`.
class Replay {
 public:
  // `on_never_known` is called with a descriptor that was taken over as an open file, but of which the kernel
  // never learned.
  Replay(Notes& notes, std::function<void(int fd)> on_never_known)
      : notes_(notes), on_never_known_(std::move(on_never_known)) {}
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // While it lives, the thread serves this request, whose id is the kernel's. One that comes again takes over
  // what it was about to do, and closes what was opened for it before, unless it makes a file.
  enum class Makes : uint8_t { no_file, file };
  class InService {
   public:
    InService(Replay& replay, uint64_t unique, Makes makes);
    ~InService();
    InService(const InService&) = delete;
    InService& operator=(const InService&) = delete;

   private:
    Replay& replay_;
  };

  // What the same request was about to do before; nothing where it is served for the first time, or had come
  // to that in no worker.
  template <class Kind>
  std::optional<Kind> earlier() const {
    const Kind* kind = earlier_ ? std::get_if<Kind>(&*earlier_) : nullptr;
    return kind == nullptr ? std::nullopt : std::optional<Kind>(*kind);
  }
  // Whether it was about to do anything: it may have been done.
  bool comes_again() const { return earlier_.has_value(); }
  void intend(const Intent& intent);
  // Whether that is noted. Where it is not, nothing need be found out for it.
  bool notes_intents() const { return note_ != nullptr; }

  // For a request that makes a file: what it opened, as soon as it is open, and that it is closed.
  void note_opened(int fd);
  void note_closed();
  // What it had opened before, if anything.
  Fd opened_before();

 private:
  void begin(uint64_t unique, Makes makes);
  void end();
  void take_over(uint64_t unique);
  void close_opened_before();

  Notes& notes_;
  const std::function<void(int)> on_never_known_;
  RequestNote* note_ = nullptr;  // this thread's, from its first request on; null where there is none
  std::optional<Intent> earlier_;
  int earlier_opened_ = -1;
};

}  // namespace limaquota
