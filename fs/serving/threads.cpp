#include "fs/serving/threads.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <new>
#include <optional>
#include <utility>

#include "accounting/mutex.hpp"
#include "fs/serving/request_kind.hpp"
#include "fs/serving/uring.hpp"
#include "fs/system/caller.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {

constexpr size_t most_threads = 1024;
// Threads that wait for /dev/fuse at once (bench/README.md: why not more, and not fewer).
constexpr int most_readers = 4;

// A receive buffer whose pages are there before /dev/fuse touches them.
class Buffer {
 public:
  Buffer()
      : memory_(::mmap(nullptr, largest_request, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::munmap(memory_, largest_request); }
  char* get() const { return static_cast<char*>(memory_); }

 private:
  void* memory_;
};

void run_on_cpu(unsigned cpu) {
  const size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
  cpu_set_t* set = CPU_ALLOC(cpu + 1);
  if (set == nullptr) return;
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(cpu, bytes, set);
  // Where it may not, for a CPU that is offline or not ours, requests are only slower.
  (void)::sched_setaffinity(0, bytes, set);
  CPU_FREE(set);
}

}  // namespace

void ServingThreads::start(std::atomic<int>& waiting, std::function<void()> work) {
  const MutexLock lock(threads_mutex_);
  if (threads_.size() >= most_threads) return;
  ++waiting;  // before it can have a request
  try {
    threads_.emplace_back(std::move(work));
  } catch (const std::exception& thrown) {
    --waiting;
    tell_shortage(thrown.what());
  }
}

// The threads there are go on; who wanted another waits again after its request.
void ServingThreads::tell_shortage(const char* why) {
  if (!short_of_threads_.exchange(true)) log_warning("cannot have another thread: {}", why);
}

// Null where there is no memory for it.
std::unique_ptr<RequestContext> ServingThreads::new_context() {
  try {
    return server_.context();
  } catch (const std::bad_alloc& thrown) {
    tell_shortage(thrown.what());
    return nullptr;
  }
}

void ServingThreads::serve_device() {
  prepare_thread();
  std::optional<Buffer> memory;
  const std::unique_ptr<RequestContext> context = new_context();
  try {
    memory.emplace();
  } catch (const std::bad_alloc& thrown) {
    tell_shortage(thrown.what());
  }
  if (!context || !memory) {
    if (--readers_ == 0) (void)call_reader();
    return;
  }
  short_of_threads_ = false;
  while (!ended_) {
    const ssize_t got = ::read(device_, memory->get(), largest_request);
    // ENOENT: its caller was interrupted before it was read.
    if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (got <= 0) break;
    RequestContext::after_request();
    if (--readers_ == 0 && !call_reader()) start(readers_, [this] { serve_device(); });
    server_.serve(*context, {memory->get(), static_cast<size_t>(got)});
    if (readers_ < most_readers)
      ++readers_;
    else
      rest();
  }
  ended_ = true;
  end_rest();
}

// The kernel gives requests to its readers in turn. Each has a stack and a buffer of its own: with many,
// every request finds them cold.
void ServingThreads::rest() {
  const MutexLock lock(rest_mutex_);
  // Who took the last request may have found nobody to call.
  if (readers_ == 0) {
    ++readers_;
    return;
  }
  ++resting_;
  while (called_ == 0 && !rest_over_) rest_.wait(rest_mutex_);
  if (called_ > 0) --called_;
}

bool ServingThreads::call_reader() {
  const MutexLock lock(rest_mutex_);
  if (resting_ == 0) return false;
  --resting_;
  ++called_;
  ++readers_;
  rest_.notify_one();
  return true;
}

void ServingThreads::end_rest() {
  const MutexLock lock(rest_mutex_);
  rest_over_ = true;
  rest_.notify_all();
}

// The kernel puts a request into an entry, which is bound to it until the reply: so nothing queues on an
// account here, and a request that waits keeps its own thread.
void ServingThreads::serve_queue(unsigned queue) {
  prepare_thread();
  run_on_cpu(queue);
  std::atomic<int>& takers = takers_[queue];
  const std::unique_ptr<RequestContext> context = new_context();
  const auto entry = UringEntry::make(device_, queue, largest_payload);
  if (!entry) tell_shortage("io_uring refuses another entry");
  if (!entry || !context) {
    --takers;
    return;
  }
  context->entry = entry.get();
  short_of_threads_ = false;
  bool served = false;
  for (;;) {
    const std::span<char> request = entry->next();
    if (request.empty()) break;  // the end of the mount, or of this entry
    if (--takers == 0) start(takers, [this, queue] { serve_queue(queue); });
    server_.serve_bound(*context, request);
    ++takers;
    served = true;
  }
  // An entry that was refused at once would be again.
  const bool was_last = --takers == 0;
  if (was_last && served && !ended_) start(takers, [this, queue] { serve_queue(queue); });
}

void ServingThreads::start_queues() {
  const unsigned queues = uring_queues();
  for (unsigned queue = 0; queue < queues; ++queue) takers_.emplace_back(0);
  for (unsigned queue = 0; queue < queues; ++queue) {
    start(takers_[queue], [this, queue] { serve_queue(queue); });
  }
}

bool ServingThreads::run() {
  start(readers_, [this] { serve_device(); });
  for (size_t i = 0;; ++i) {
    std::thread thread;
    {
      const MutexLock lock(threads_mutex_);
      if (i >= threads_.size()) break;
      thread = std::move(threads_[i]);
    }
    thread.join();
  }
  return ended_;
}

}  // namespace limaquota
