#include "fs/serving/handshake.hpp"

#include <linux/fuse.h>

#include <algorithm>
#include <cstring>

#include "fs/serving/request_kind.hpp"
#include "fs/serving/uring.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {
// In flags2 of INIT, from Linux 6.6 on: shared mappings of files opened with direct I/O.
constexpr uint32_t direct_io_allow_mmap = uint32_t{1} << (36 - 32);
// And from Linux 6.9 on: the kernel sends again what was not answered, when it is told to.
constexpr uint32_t has_resend = uint32_t{1} << (39 - 32);
}  // namespace

void Handshake::begin(std::span<const char> request) {
  unique_ = reinterpret_cast<const fuse_in_header*>(request.data())->unique;
  ConnectionNotes& noted = notes_.connection;
  if (!repeated_ && request.size() <= sizeof noted.init_request) {
    std::memcpy(noted.init_request, request.data(), request.size());
    noted.init_request_bytes = static_cast<uint32_t>(request.size());
  }
  if (const auto* init = body_of<fuse_init_in>(request.data(), request.size())) {
    flags_ = init->flags;
    flags2_ = (init->flags & FUSE_INIT_EXT) != 0 ? init->flags2 : 0;
  }
}

std::vector<char> Handshake::begin_again() {
  repeated_ = true;
  const ConnectionNotes& noted = notes_.connection;
  return {noted.init_request, noted.init_request + noted.init_request_bytes};
}

bool Handshake::is_answer(const fuse_out_header& header) const {
  return !answered_ && header.error == 0 && header.unique == unique_ && unique_ != 0;
}

// What libfuse 3.14 cannot negotiate: that we clear set-id bits ourselves, which spares a GETXATTR before
// every write, and shared mappings of disk files; and what it drops although it was asked to: lookups in one
// directory at once. Newer libfuse is not asked for the first two, so that they come about in the same way
// with each (tests/smoke/negotiated_test.py).
void Handshake::complete(const iovec& body) {
  auto* init = static_cast<fuse_init_out*>(body.iov_base);
  if (body.iov_len < offsetof(fuse_init_out, unused)) return;
  init->flags |= flags_ & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS);
  if ((flags2_ & direct_io_allow_mmap) != 0) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= direct_io_allow_mmap;
  }
  const bool offered = (flags2_ & init_over_io_uring) != 0;
  if (io_uring_ && !offered) log_warning("the kernel does not offer FUSE over io_uring: going on without");
  io_uring_ = io_uring_ && offered;
  if (io_uring_) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= init_over_io_uring;
  }
}

ssize_t Handshake::answer(int device, iovec* parts, int count) {
  answered_ = true;
  complete(parts[1]);
  std::vector<char> reply;
  for (int i = 0; i < count; ++i) {
    const char* part = static_cast<const char*>(parts[i].iov_base);
    reply.insert(reply.end(), part, part + parts[i].iov_len);
  }
  if (repeated_) return compare(reply);
  ConnectionNotes& noted = notes_.connection;
  const bool fits = reply.size() <= sizeof noted.init_reply;
  if (fits) {
    std::copy(reply.begin(), reply.end(), noted.init_reply);
    noted.init_reply_bytes = static_cast<uint32_t>(reply.size());
  }
  const ssize_t written = ::writev(device, parts, count);
  const bool sends_again = (flags2_ & has_resend) != 0;
  if (fits && sends_again && !io_uring_ && noted.init_request_bytes > 0) {
    noted.restartable = true;
  } else if (!io_uring_) {
    log_info(
        "should the daemon crash, the mount is dead: only Linux 6.9 and later lets another one take over");
  }
  end();
  return written;
}

ssize_t Handshake::compare(const std::vector<char>& reply) {
  const ConnectionNotes& noted = notes_.connection;
  agrees_ =
      std::equal(reply.begin(), reply.end(), noted.init_reply, noted.init_reply + noted.init_reply_bytes);
  end();
  return static_cast<ssize_t>(reply.size());
}

// The kernel sends requests from the moment of the answer on, which other threads read.
void Handshake::end() {
  done_ = true;
  done_.notify_all();
}

}  // namespace limaquota
