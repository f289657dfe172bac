// What a thread knows of the request that it serves, beside what libfuse hands on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "fs/handover/notes.hpp"
#include "fs/handover/replay.hpp"
#include "fs/serving/uring.hpp"

namespace limaquota {

// Of one thread, for one request after the other. Thread safety: of that thread alone.
struct RequestContext {
  RequestContext(Notes& notes, std::function<void(int fd)> on_never_known)
      : replay(notes, std::move(on_never_known)) {}

  // The one whose request this thread serves now; null where it serves none. libfuse passes nothing through
  // from the request to the operation and to the reply but a pointer that is the same for all: hence a
  // variable of the thread, set by `Serving` alone.
  static RequestContext* current();

  // While it lives, the thread serves a request with this context.
  class Serving {
   public:
    explicit Serving(RequestContext& context);
    ~Serving();
    Serving(const Serving&) = delete;
    Serving& operator=(const Serving&) = delete;
  };

  // Where the data of the reply need not be copied from; or empty.
  std::span<char> reply_space() const { return entry == nullptr ? std::span<char>() : entry->reply_space(); }

  Replay replay;
  UringEntry* entry = nullptr;  // by which it came; null: from /dev/fuse
  bool kill_set_id = false;     // its caller may not keep set-id bits
  uint32_t open_reply = 0;      // FOPEN_* flags for the reply of an open
};

}  // namespace limaquota
