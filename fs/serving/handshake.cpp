#include "fs/serving/handshake.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

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

Result<Handshake::Message> Handshake::receive() {
  Message request(largest_request);
  for (;;) {
    const ssize_t got = ::read(device_, request.data(), request.size());
    if (got > 0) {
      request.resize(static_cast<size_t>(got));
      return request;
    }
    if (got == 0) return Errno{ENODEV};
    if (errno != EINTR && errno != EAGAIN) return Errno{errno};
  }
}

void Handshake::remember(const Message& request) {
  if (const auto* init = body_of<fuse_init_in>(request.data(), request.size())) {
    flags_ = init->flags;
    flags2_ = (init->flags & FUSE_INIT_EXT) != 0 ? init->flags2 : 0;
  }
}

// libfuse writes to the descriptor that it was given. Meanwhile that stands for a socket of ours, so that the
// answer can be read, completed and noted before the kernel has it.
std::optional<Handshake::Message> Handshake::answer_of_libfuse(Message request) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return std::nullopt;
  const Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  const Fd kernel(::fcntl(device_, F_DUPFD_CLOEXEC, 0));
  if (!kernel || ::dup3(theirs.get(), device_, O_CLOEXEC) < 0) return std::nullopt;
  fuse_buf buffer{};
  buffer.mem = request.data();
  buffer.size = request.size();
  fuse_session_process_buf(session_, &buffer);
  if (::dup3(kernel.get(), device_, O_CLOEXEC) < 0) return std::nullopt;
  Message answer(largest_request);
  const ssize_t got = ::read(ours.get(), answer.data(), answer.size());
  if (got < static_cast<ssize_t>(sizeof(fuse_out_header))) return std::nullopt;
  answer.resize(static_cast<size_t>(got));
  return answer;
}

// What libfuse 3.14 cannot negotiate: that we clear set-id bits ourselves, which spares a GETXATTR before
// every write, and shared mappings of disk files; and what it drops although it was asked to: lookups in one
// directory at once. Newer libfuse is not asked for the first two, so that they come about in the same way
// with each (tests/smoke/negotiated_test.py).
void Handshake::complete(Message& answer) {
  constexpr size_t used = sizeof(fuse_out_header) + offsetof(fuse_init_out, unused);
  if (answer.size() < used) return;
  auto* init = reinterpret_cast<fuse_init_out*>(answer.data() + sizeof(fuse_out_header));
  init->flags |= flags_ & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS);
  if ((flags2_ & direct_io_allow_mmap) != 0) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= direct_io_allow_mmap;
  }
  const bool offered = (flags2_ & init_over_io_uring) != 0;
  if (transport_ == Transport::io_uring && !offered) {
    log_warning("the kernel does not offer FUSE over io_uring: going on without");
    transport_ = Transport::device;
  }
  if (transport_ == Transport::io_uring) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= init_over_io_uring;
  }
}

std::optional<Handshake::Message> Handshake::answer(const Message& request) {
  remember(request);
  auto answer = answer_of_libfuse(request);
  if (!answer) return std::nullopt;
  complete(*answer);
  return answer;
}

Result<void> Handshake::shake() {
  const auto request = receive();
  if (!request) return request.error();
  const auto reply = answer(*request);
  if (!reply) return Errno{EPROTO};
  ConnectionNotes& noted = notes_.connection;
  const bool fits = request->size() <= sizeof noted.init_request && reply->size() <= sizeof noted.init_reply;
  if (fits) {
    std::copy(request->begin(), request->end(), noted.init_request);
    std::copy(reply->begin(), reply->end(), noted.init_reply);
    noted.init_request_bytes = static_cast<uint32_t>(request->size());
    noted.init_reply_bytes = static_cast<uint32_t>(reply->size());
  }
  if (::write(device_, reply->data(), reply->size()) != static_cast<ssize_t>(reply->size()))
    return Errno{errno};
  const bool over_device = transport_ == Transport::device;
  if (fits && (flags2_ & has_resend) != 0 && over_device) {
    noted.restartable = true;
  } else if (over_device) {
    log_info(
        "should the daemon crash, the mount is dead: only Linux 6.9 and later lets another one take over");
  }
  return {};
}

bool Handshake::repeat() {
  const ConnectionNotes& noted = notes_.connection;
  const auto reply = answer(Message(noted.init_request, noted.init_request + noted.init_request_bytes));
  return reply && std::equal(reply->begin(), reply->end(), noted.init_reply,
                             noted.init_reply + noted.init_reply_bytes);
}

}  // namespace limaquota
