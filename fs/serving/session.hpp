// The session: one mounted connection, from the first request to the end of the mount.
#pragma once

#include <sys/uio.h>

#include <functional>
#include <memory>
#include <span>

#include "fs/serving/filesystem.hpp"
#include "fs/serving/gates.hpp"
#include "fs/serving/handshake.hpp"
#include "fs/serving/operations.hpp"
#include "fs/serving/threads.hpp"

namespace limaquota {

// A request is served by the thread that took it, from /dev/fuse or from a queue of io_uring.
class Session : private Server {
 public:
  // Takes over the /dev/fuse descriptor of a mount. With `io_uring`, and where the kernel offers it, requests
  // come through its queues (fs/serving/uring.hpp); only what needs no reply still comes from /dev/fuse.
  enum class Transport : uint8_t { device, io_uring };
  Session(Filesystem& fs, Fd device, Transport transport);
  ~Session() override;

  // False where libfuse would not start.
  bool good() const { return session_ != nullptr; }
  // Serves until the mount is gone. `ready` is called once, from a serving thread, when the kernel's INIT was
  // answered. False where it could not: there was no thread, or no memory for one.
  bool serve(std::function<void()> ready);
  // In a worker that takes over: shakes hands as the one before did, without a word to the kernel, and has it
  // send again what was not answered. False where this program's answer would have been another.
  bool take_over();
  // A reply of libfuse's on its way out, by the thread that serves its request. What writev(2) returns.
  ssize_t reply(int device, iovec* parts, int count);

 private:
  struct Free {
    void operator()(fuse_session* session) const { fuse_session_destroy(session); }
  };
  std::unique_ptr<RequestContext> context() override;
  void serve(RequestContext& context, std::span<char> request) override;
  void serve_bound(RequestContext& context, std::span<char> request) override;

  Filesystem& fs_;
  Connection connection_;
  fuse_lowlevel_ops table_;
  std::unique_ptr<fuse_session, Free> session_;
  Handshake handshake_;
  Gates gates_;
  std::unique_ptr<ServingThreads> threads_;
  std::function<void()> ready_;
};

}  // namespace limaquota
