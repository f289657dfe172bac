// The handshake with the kernel: INIT, with what libfuse cannot negotiate of it. A worker that takes over
// gives libfuse the same INIT again, and keeps its answer from the kernel, which has one already. The
// handshake is over before the first thread serves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "accounting/result.hpp"
#include "fs/handover/notes.hpp"
#include "fs/serving/libfuse.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// Of the one thread there is.
class Handshake {
 public:
  // libfuse answers to `device`, a descriptor of its own (see answer_of_libfuse). `io_uring`: it is asked
  // for.
  enum class Transport : uint8_t { device, io_uring };
  Handshake(Notes& notes, fuse_session* session, int device, Transport wanted)
      : notes_(notes), session_(session), device_(device), transport_(wanted) {}

  // Waits for the kernel's INIT and answers it. ENODEV where the mount is gone, another error where libfuse
  // would not talk.
  Result<void> shake();
  // The same with the INIT that the worker before had. False where this program's answer would have been
  // another.
  bool repeat();
  // Then: by which way requests come.
  Transport transport() const { return transport_; }

 private:
  using Message = std::vector<char>;
  Result<Message> receive();
  void remember(const Message& request);
  std::optional<Message> answer_of_libfuse(Message request);
  std::optional<Message> answer(const Message& request);
  void complete(Message& answer);

  Notes& notes_;
  fuse_session* const session_;
  const int device_;
  Transport transport_;
  uint32_t flags_ = 0, flags2_ = 0;  // that the kernel offers
};

}  // namespace limaquota
