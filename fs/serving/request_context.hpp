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
  // `fuse_device` is /dev/fuse.
  RequestContext(int fuse_device, Notes& notes, std::function<void(int fd)> on_never_known)
      : device(fuse_device), replay(notes, std::move(on_never_known)) {}

  // The one whose request this thread serves now; null where it serves none. libfuse passes nothing through
  // from the request to the operation but a pointer that is the same for all: hence a variable of the thread,
  // set by `Serving` alone.
  static RequestContext* current();

  // While it lives, the thread serves a request with this context.
  class Serving {
   public:
    explicit Serving(RequestContext& context);
    ~Serving();
    Serving(const Serving&) = delete;
    Serving& operator=(const Serving&) = delete;
  };

  // A request that follows an answer comes after what was done for that: the kernel sees to it, and the
  // thread sanitizer does not see it on a descriptor from before a fork.
  static void before_answer();
  static void after_request();

  // Where the data of the reply need not be copied from; or empty.
  std::span<char> reply_space() const { return entry == nullptr ? std::span<char>() : entry->reply_space(); }

  const int device;
  Replay replay;
  UringEntry* entry = nullptr;  // by which it came; null: from /dev/fuse
  // --- of the present request ---
  uint64_t unique = 0;       // its id
  bool kill_set_id = false;  // its caller may not keep set-id bits
};

}  // namespace limaquota
