// FUSE over io_uring: requests and replies without read(2) and write(2) on /dev/fuse, through one queue a
// CPU. A request goes to the queue of the CPU that its caller runs on, and is served there: no wake-up ever
// reaches into another CPU, which is most of what a small request costs. Format: Linux 6.14,
// Documentation/filesystems/fuse/fuse-io-uring.rst and include/uapi/linux/fuse.h.
#pragma once

#include <liburing.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace limaquota {

// In flags2 of INIT: the kernel offers it, and we take it.
inline constexpr uint32_t init_over_io_uring = uint32_t{1} << (41 - 32);

// Why this machine cannot do it, and what to do about it: one line for a person; nothing where it can.
std::optional<std::string> reason_against_uring();

// How many queues the kernel has: one for each CPU there may be. It waits until each has an entry.
unsigned uring_queues();

// A place in one queue for one request at a time. Thread safety: of the one thread that made it.
class UringEntry {
 public:
  // For requests and replies with up to `max_payload` bytes beside their headers. Null where io_uring
  // refuses.
  static std::unique_ptr<UringEntry> make(int device, unsigned queue, size_t max_payload);
  UringEntry(const UringEntry&) = delete;
  UringEntry& operator=(const UringEntry&) = delete;
  ~UringEntry();

  // Sends the reply to the request before, and waits for the next, which is as read(2) of /dev/fuse would
  // have it: header, arguments, data. Empty when the mount is gone, or the kernel would not have the entry.
  std::span<char> next();
  // Notes the reply of the present request, as it would be written to /dev/fuse. False where it is not for
  // it.
  bool reply(const iovec* parts, int count);
  // Where the data of the reply may be put at once: a part of `reply` that lies there already is not copied.
  std::span<char> reply_space() const { return {payload_, max_payload_}; }

 private:
  UringEntry(unsigned queue, size_t max_payload) : queue_(queue), max_payload_(max_payload) {}
  void prepare();
  // Empty where its lengths contradict each other: it is answered with an error then.
  std::span<char> assembled();

  const unsigned queue_;
  const size_t max_payload_;
  int device_ = -1;
  io_uring ring_{};
  bool has_ring_ = false;
  char* memory_ = nullptr;  // the headers, and on the next page boundary the payload
  char* payload_ = nullptr;
  iovec parts_[2]{};
  uint64_t unique_ = 0;  // of the present request
  bool answered_ = true;
  bool enlisted_ = false;
};

}  // namespace limaquota
