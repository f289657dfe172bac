// The threads that serve. They wait for requests at /dev/fuse and at each queue of io_uring; when the last
// one that waits there gets a request, another thread takes its place.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "accounting/mutex.hpp"
#include "fs/serving/request_context.hpp"

namespace limaquota {

// Serves what the threads take. All may be called from any thread.
class Server {
 public:
  Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  virtual ~Server() = default;
  // For a new thread.
  virtual std::unique_ptr<RequestContext> context() = 0;
  // A request from /dev/fuse. It may be put aside for another thread: the memory is the caller's again.
  virtual void serve(RequestContext& context, std::span<char> request) = 0;
  // One that is bound to its entry of a queue: it is answered when this returns.
  virtual void serve_bound(RequestContext& context, std::span<char> request) = 0;
};

// There is always one thread waiting at each place: when the last one turns to its request, another is
// called, or started. Thread safety: all functions may be called from any thread.
class ServingThreads {
 public:
  ServingThreads(int device, Server& server) : device_(device), server_(server) {}

  // Serves until the mount is gone. False where there was no thread for it.
  bool run();
  // Before: the queues of io_uring are served, too.
  void start_queues();

 private:
  void start(std::atomic<int>& waiting, std::function<void()> work);
  void tell_shortage(const char* why);
  std::unique_ptr<RequestContext> new_context();
  void serve_device();
  void serve_queue(unsigned queue);
  void rest();
  bool call_reader();
  void end_rest();

  const int device_;  // /dev/fuse
  Server& server_;
  std::atomic<bool> ended_{false};       // the mount is gone
  std::atomic<int> readers_{0};          // threads that wait for /dev/fuse
  std::deque<std::atomic<int>> takers_;  // and for each queue
  Mutex rest_mutex_;
  Condition rest_;
  int resting_ GUARDED_BY(rest_mutex_) = 0;  // threads that rest, and nobody has called
  int called_ GUARDED_BY(rest_mutex_) = 0;   // called, but not yet awake
  bool rest_over_ GUARDED_BY(rest_mutex_) = false;
  Mutex threads_mutex_;
  std::vector<std::thread> threads_ GUARDED_BY(threads_mutex_);
  std::atomic<bool> short_of_threads_{false};  // and said so
};

}  // namespace limaquota
