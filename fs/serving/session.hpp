// The session: our own receive loop on /dev/fuse, and the threads that serve.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fs/serving/filesystem.hpp"
#include "fs/serving/gates.hpp"
#include "fs/serving/operations.hpp"

namespace limaquota {

// Serves one mounted connection. A request is served by the thread that took it, from /dev/fuse or from a
// queue of io_uring. There is always one thread waiting at each of them: when the last one turns to its
// request, another is started.
class Session {
 public:
  // Takes over the /dev/fuse descriptor of a mount. With `io_uring`, and where the kernel offers it, requests
  // come through its queues (fs/serving/uring.hpp); only what needs no reply still comes from /dev/fuse.
  Session(Filesystem& fs, Fd device, bool io_uring);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // False where libfuse would not start.
  bool good() const { return session_ != nullptr; }
  // Serves until the mount is gone. `ready` is called once, from a serving thread, when the kernel's INIT was
  // answered. False where it could not: there was no thread, or no memory for one.
  bool serve(std::function<void()> ready);
  // In a worker that takes over: shakes hands as the one before did, without a word to the kernel, and has it
  // send again what was not answered. False where this program's answer would have been another.
  bool take_over();

 private:
  struct Free {
    void operator()(fuse_session* session) const { fuse_session_destroy(session); }
  };
  void serve_device();
  void rest();
  bool call_reader();
  void serve_queue(unsigned queue);
  void start_thread(std::atomic<int>& waiting, std::function<void()> work);
  void start_queues();
  void tell_shortage(const char* why);
  void request(char* data, size_t size);
  void process(char* data, size_t size);
  void complete_init(const struct iovec& body);
  ssize_t finish_init(int fd, struct iovec* iov, int count);
  void let_others_serve();
  static void complete_open(const struct iovec& body);
  static ssize_t write_reply(int fd, struct iovec* iov, int count, void* userdata);
  static ssize_t read_request(int fd, void* buffer, size_t size, void* userdata);

  static Session*
      self_;  // libfuse hands its own userdata to the io functions: there is one session a process

  Filesystem& fs_;
  fuse_lowlevel_ops table_;
  std::unique_ptr<fuse_session, Free> session_;
  Gates gates_;
  std::function<void()> ready_;
  bool io_uring_;
  std::atomic<int> readers_{0};  // threads that wait for /dev/fuse
  std::mutex rest_mutex_;
  std::condition_variable rest_;
  int resting_ = 0;                      // guarded by rest_mutex_: threads that rest, and nobody has called
  int called_ = 0;                       // guarded by rest_mutex_: called, but not yet awake
  bool rest_over_ = false;               // guarded by rest_mutex_
  std::deque<std::atomic<int>> takers_;  // and for each queue of io_uring
  std::atomic<bool> init_answered_{false};
  // After it, all that another worker needs is noted. Nothing is served before: who saw an answer may rely on
  // it.
  std::atomic<bool> init_finished_{false};
  bool taking_over_ = false;  // the reply of INIT is only compared
  bool agrees_ = false;
  std::atomic<uint64_t> init_unique_{0};
  std::atomic<uint32_t> init_flags_{0}, init_flags2_{0};
  std::mutex threads_mutex_;
  std::vector<std::thread> threads_;           // guarded by threads_mutex_
  std::atomic<bool> short_of_threads_{false};  // and said so
};

}  // namespace limaquota
