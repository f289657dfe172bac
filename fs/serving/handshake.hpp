// The handshake with the kernel: INIT, what libfuse cannot negotiate of it, and how the next worker repeats
// it without a word to the kernel.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fs/handover/notes.hpp"

struct fuse_out_header;

namespace limaquota {

// Thread safety: `wait` by any thread; all else by the thread that serves INIT, the first one there is.
class Handshake {
 public:
  // `io_uring`: it is asked for.
  Handshake(Notes& notes, bool io_uring) : notes_(notes), io_uring_(io_uring) {}

  // The kernel's INIT, before libfuse sees it.
  void begin(std::span<const char> request);
  // The one that the worker before had, for libfuse to answer again: the answer is only compared.
  std::vector<char> begin_again();
  // Whether this is the answer of INIT, which libfuse gives once.
  bool is_answer(const fuse_out_header& header) const;
  // The answer on its way out: completed, noted, and written to /dev/fuse. What writev(2) returns.
  ssize_t answer(int device, iovec* parts, int count);
  // Whether the answer, given again, was that of the worker before.
  bool agrees() const { return agrees_; }
  bool is_repeated() const { return repeated_; }
  // Whether requests come through the queues of io_uring.
  bool over_io_uring() const { return io_uring_; }

  // Until all that another worker needs is noted. Nothing is served before: who saw an answer may rely on it.
  void wait() const { done_.wait(false); }

 private:
  void complete(const iovec& body);
  ssize_t compare(const std::vector<char>& reply);
  void end();

  Notes& notes_;
  bool io_uring_;
  bool repeated_ = false;
  bool answered_ = false;
  bool agrees_ = false;
  uint64_t unique_ = 0;
  uint32_t flags_ = 0, flags2_ = 0;
  std::atomic<bool> done_{false};
};

}  // namespace limaquota
