// The session: one mounted connection, from the first request to the end of the mount.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "fs/serving/filesystem.hpp"
#include "fs/serving/gates.hpp"
#include "fs/serving/handshake.hpp"
#include "fs/serving/libfuse.hpp"
#include "fs/serving/threads.hpp"

namespace limaquota {

// A request is served by the thread that took it, from /dev/fuse or from a queue of io_uring.
class Session : private Server {
 public:
  using Transport = Handshake::Transport;
  // Takes over the /dev/fuse descriptor of a mount. With io_uring, and where the kernel offers it, requests
  // come through its queues (fs/serving/uring.hpp); only what needs no reply still comes from /dev/fuse.
  Session(Filesystem& fs, Fd device, Transport transport);
  ~Session() override;

  // False where libfuse would not start.
  bool good() const { return session_ != nullptr; }
  // Shakes hands with the kernel; ENODEV where the mount is gone already. The caller has one thread.
  Result<void> shake_hands();
  // The same in a worker that takes over: as the one before did, without a word to the kernel, which is told
  // to send again what was not answered. False where this program's answer would have been another.
  bool take_over();
  // Then serves until the mount is gone. False where it could not: there was no thread, or no memory for one.
  bool serve();

 private:
  struct Free {
    void operator()(fuse_session* session) const { fuse_session_destroy(session); }
  };
  std::unique_ptr<RequestContext> context() override;
  void serve(RequestContext& context, std::span<char> request) override;
  void serve_bound(RequestContext& context, std::span<char> request) override;

  Filesystem& fs_;
  Fd device_;
  fuse_lowlevel_ops table_;
  std::unique_ptr<fuse_session, Free> session_;  // has a descriptor of its own
  std::unique_ptr<Handshake> handshake_;
  std::unique_ptr<ServingThreads> threads_;
  bool has_queues_ = false;  // of io_uring, as agreed with the kernel
  Gates gates_;
};

}  // namespace limaquota
