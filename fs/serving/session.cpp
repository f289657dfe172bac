#include "fs/serving/session.hpp"

#include <linux/fuse.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "fs/handover/notes.hpp"
#include "fs/serving/uring.hpp"
#include "fs/system/caller.hpp"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace limaquota {
namespace {

constexpr size_t max_payload = size_t{1} << 20;  // max_write of INIT
// A request is at most that and its headers.
constexpr size_t buffer_bytes = max_payload + (size_t{64} << 10);
constexpr size_t most_threads = 1024;
// Threads that wait for /dev/fuse at once (bench/README.md: why not more, and not fewer).
constexpr int most_readers = 4;
// In flags2 of INIT, from Linux 6.6 on: shared mappings of files opened with direct I/O.
constexpr uint32_t direct_io_allow_mmap = uint32_t{1} << (36 - 32);
// And from Linux 6.9 on: the kernel sends again what was not answered, when it is told to.
constexpr uint32_t has_resend = uint32_t{1} << (39 - 32);
constexpr int32_t notify_resend = 7;

// A receive buffer whose pages are there before /dev/fuse touches them.
class Buffer {
 public:
  Buffer()
      : memory_(::mmap(nullptr, buffer_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::munmap(memory_, buffer_bytes); }
  void* get() const { return memory_; }

 private:
  void* memory_;
};

template <class Body>
const Body* body_of(const char* data, size_t size) {
  if (size < sizeof(fuse_in_header) + sizeof(Body)) return nullptr;
  return reinterpret_cast<const Body*>(data + sizeof(fuse_in_header));
}

// The entry of io_uring whose request this thread serves.
thread_local UringEntry* entry_in_service = nullptr;

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

// The bits that libfuse 3.14 keeps to itself.
RequestFlags flags_of(uint32_t opcode, const char* data, size_t size) {
  RequestFlags flags;
  if (opcode == FUSE_WRITE) {
    const auto* body = body_of<fuse_write_in>(data, size);
    flags.kill_set_id = body != nullptr && (body->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
  } else if (opcode == FUSE_SETATTR) {
    const auto* body = body_of<fuse_setattr_in>(data, size);
    flags.kill_set_id = body != nullptr && (body->valid & FATTR_KILL_SUIDGID) != 0;
  } else if (opcode == FUSE_OPEN) {
    const auto* body = body_of<fuse_open_in>(data, size);
    flags.kill_set_id = body != nullptr && (body->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
  }
  return flags;
}

// A request that follows an answer comes after what was done for that: the kernel sees to it, and the thread
// sanitizer does not see it on a descriptor from before a fork.
#ifdef __SANITIZE_THREAD__
char order_of_requests;
void before_answer() { __tsan_release(&order_of_requests); }
void after_request() { __tsan_acquire(&order_of_requests); }
#else
void before_answer() {}
void after_request() {}
#endif

// Requests that would not do the same when they are carried out twice.
bool may_not_be_repeated(uint32_t opcode) {
  switch (opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
      return true;
    default:
      return false;
  }
}

// Requests that must not wait for a busy account: they are quick, or let it go on.
bool never_waits(uint32_t opcode) {
  switch (opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
    case FUSE_INIT:
    case FUSE_DESTROY:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
      return true;
    default:
      return false;
  }
}

}  // namespace

Session::Session(Filesystem& fs, Fd device, bool io_uring)
    : fs_(fs), table_(operation_table()), io_uring_(io_uring) {
  char name[] = "limaquota";
  char* argv[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  session_.reset(fuse_session_new(&args, &table_, sizeof table_, &fs_));
  fuse_opt_free_args(&args);
  if (!session_) return;
  // Newer libfuse has more of them; what is not set is not used, splicing among it.
  static const fuse_custom_io io = [] {
    fuse_custom_io ours{};
    ours.writev = write_reply;
    ours.read = read_request;
    return ours;
  }();
  self_ = this;
  if (fuse_session_custom_io(session_.get(), &io, device.get()) != 0) {
    session_.reset();
    return;
  }
  (void)device.release();  // libfuse's now
  InService::on_never_known = [this](int fd) { fs_.tree.never_known(fd); };
  fs_.tree.set_kernel(
      {[this](NodeId parent, const std::string& entry) {
         fuse_lowlevel_notify_inval_entry(session_.get(), parent, entry.c_str(), entry.size());
       },
       // Only its attributes are to be asked for anew.
       [this](NodeId id) { return fuse_lowlevel_notify_inval_inode(session_.get(), id, -1, 0) != -ENOENT; }});
}

Session::~Session() {
  fs_.tree.set_kernel({});
  InService::on_never_known = {};
  self_ = nullptr;
}

Session* Session::self_ = nullptr;

ssize_t Session::read_request(int fd, void* buffer, size_t size, void*) {
  const ssize_t got = ::read(fd, buffer, size);
  after_request();
  return got;
}

// The reply of INIT on its way out gets what libfuse 3.14 cannot negotiate: that we clear set-id bits
// ourselves, which spares a GETXATTR before every write, and shared mappings of disk files; and what it drops
// although it was asked to: lookups in one directory at once. Newer libfuse is not asked for the first two,
// so that they come about in the same way with each (tests/smoke/negotiated_test.py).
void Session::complete_init(const struct iovec& body) {
  auto* init = static_cast<fuse_init_out*>(body.iov_base);
  if (body.iov_len < offsetof(fuse_init_out, unused)) return;
  init->flags |= init_flags_ & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS);
  if ((init_flags_ & FUSE_INIT_EXT) != 0 && (init_flags2_ & direct_io_allow_mmap) != 0) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= direct_io_allow_mmap;
  }
  const bool offered = (init_flags_ & FUSE_INIT_EXT) != 0 && (init_flags2_ & init_over_io_uring) != 0;
  if (io_uring_ && !offered) log_warning("the kernel does not offer FUSE over io_uring: going on without");
  io_uring_ = io_uring_ && offered;
  if (io_uring_) {
    init->flags |= FUSE_INIT_EXT;
    init->flags2 |= init_over_io_uring;
  }
}

// The reply of OPEN and CREATE, which ends with a fuse_open_out, gets: several direct writes within a file
// may be under way at once, as they take turns here; closing needs no FLUSH.
void Session::complete_open(const struct iovec& body) {
  if (body.iov_len < sizeof(fuse_open_out)) return;
  char* end = static_cast<char*>(body.iov_base) + body.iov_len;
  fuse_open_out open;
  std::memcpy(&open, end - sizeof open, sizeof open);
  open.open_flags |= request_flags.open_reply;
  std::memcpy(end - sizeof open, &open, sizeof open);
}

ssize_t Session::write_reply(int fd, struct iovec* iov, int count, void*) {
  before_answer();
  Session* self = self_;
  const auto* header = static_cast<const fuse_out_header*>(iov[0].iov_base);
  const bool has_body = count >= 2 && header->error == 0 && header->unique != 0;  // 0: a notification
  if (has_body && request_flags.open_reply != 0) complete_open(iov[1]);
  if (entry_in_service != nullptr && entry_in_service->reply(iov, count)) return header->len;
  if (!has_body || self == nullptr || self->init_answered_ || header->unique != self->init_unique_) {
    return ::writev(fd, iov, count);
  }
  self->init_answered_ = true;
  self->complete_init(iov[1]);
  return self->finish_init(fd, iov, count);
}

ssize_t Session::finish_init(int fd, struct iovec* iov, int count) {
  std::string reply;
  for (int i = 0; i < count; ++i) reply.append(static_cast<const char*>(iov[i].iov_base), iov[i].iov_len);
  if (taking_over_) {
    agrees_ = reply == std::string_view(handover->init_reply, handover->init_reply_bytes);
    let_others_serve();
    return static_cast<ssize_t>(reply.size());
  }
  const bool fits = handover != nullptr && reply.size() <= sizeof handover->init_reply;
  if (fits) {
    std::memcpy(handover->init_reply, reply.data(), reply.size());
    handover->init_reply_bytes = static_cast<uint32_t>(reply.size());
  }
  const ssize_t written = ::writev(fd, iov, count);
  const bool sends_again = (init_flags_ & FUSE_INIT_EXT) != 0 && (init_flags2_ & has_resend) != 0;
  if (fits && sends_again && !io_uring_ && handover->init_request_bytes > 0) {
    handover->restartable = true;
  } else if (!io_uring_) {
    log_info(
        "should the daemon crash, the mount is dead: only Linux 6.9 and later lets another one take over");
  }
  let_others_serve();
  if (io_uring_) start_queues();
  if (ready_) ready_();
  return written;
}

// The kernel sends requests from the moment of the reply on, which other threads read.
void Session::let_others_serve() {
  init_finished_ = true;
  init_finished_.notify_all();
}

bool Session::take_over() {
  std::vector<char> request(handover->init_request, handover->init_request + handover->init_request_bytes);
  taking_over_ = true;
  this->request(request.data(), request.size());
  taking_over_ = false;
  if (!agrees_) return false;
  const fuse_out_header again{sizeof again, notify_resend, 0};
  const ssize_t sent = ::write(fuse_session_fd(session_.get()), &again, sizeof again);
  // Where it was unmounted meanwhile, serving ends at once.
  return sent == sizeof again || errno == ENODEV || errno == ENOTCONN;
}

void Session::process(char* data, size_t size) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(data);
  if (header->opcode != FUSE_INIT) init_finished_.wait(false);
  request_flags = flags_of(header->opcode, data, size);
  std::optional<InService> in_service;
  if (may_not_be_repeated(header->opcode)) in_service.emplace(header->unique, header->opcode == FUSE_CREATE);
  if (entry_in_service != nullptr) request_flags.reply_space = entry_in_service->reply_space();
  fuse_buf buffer{};
  buffer.mem = data;
  buffer.size = size;
  fuse_session_process_buf(session_.get(), &buffer);
}

void Session::request(char* data, size_t size) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(data);
  if (header->opcode == FUSE_INIT) {
    init_unique_ = header->unique;
    if (handover != nullptr && !taking_over_ && size <= sizeof handover->init_request) {
      std::memcpy(handover->init_request, data, size);
      handover->init_request_bytes = static_cast<uint32_t>(size);
    }
    if (const auto* init = body_of<fuse_init_in>(data, size)) {
      init_flags_ = init->flags;
      init_flags2_ = init->flags2;
    }
  }
  const InodePtr inode =
      header->nodeid == root_node || is_virtual(header->nodeid) || never_waits(header->opcode)
          ? nullptr
          : fs_.table.find(header->nodeid);
  if (!inode) {
    process(data, size);
    return;
  }
  const auto serve = [this](char* bytes, size_t length) { process(bytes, length); };
  try {
    gates_.pass(inode->charge.account, data, size, serve);
  } catch (const std::bad_alloc&) {
    serve(data, size);  // no memory to have it wait
  }
}

void Session::start_thread(std::atomic<int>& waiting, std::function<void()> work) {
  const std::lock_guard lock(threads_mutex_);
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
void Session::tell_shortage(const char* why) {
  if (!short_of_threads_.exchange(true)) log_warning("cannot have another thread: {}", why);
}

void Session::serve_device() {
  prepare_thread();
  std::optional<Buffer> memory;
  try {
    memory.emplace();
  } catch (const std::bad_alloc& thrown) {
    tell_shortage(thrown.what());
    if (--readers_ == 0) (void)call_reader();
    return;
  }
  short_of_threads_ = false;
  while (fuse_session_exited(session_.get()) == 0) {
    fuse_buf buffer{};
    buffer.mem = memory->get();
    const int got = fuse_session_receive_buf(session_.get(), &buffer);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got <= 0) break;
    if (--readers_ == 0 && !call_reader()) start_thread(readers_, [this] { serve_device(); });
    request(static_cast<char*>(buffer.mem), buffer.size);
    if (readers_ < most_readers)
      ++readers_;
    else
      rest();
  }
  fuse_session_exit(session_.get());
  const std::lock_guard lock(rest_mutex_);
  rest_over_ = true;
  rest_.notify_all();
}

// The kernel gives requests to its readers in turn. Each has a stack and a buffer of its own: with many,
// every request finds them cold.
void Session::rest() {
  std::unique_lock lock(rest_mutex_);
  // Who took the last request may have found nobody to call.
  if (readers_ == 0) {
    ++readers_;
    return;
  }
  ++resting_;
  rest_.wait(lock, [this] { return called_ > 0 || rest_over_; });
  if (called_ > 0) --called_;
}

bool Session::call_reader() {
  const std::lock_guard lock(rest_mutex_);
  if (resting_ == 0) return false;
  --resting_;
  ++called_;
  ++readers_;
  rest_.notify_one();
  return true;
}

// The kernel puts a request into an entry, which is bound to it until the reply: so nothing queues on an
// account here, and a request that waits keeps its own thread.
void Session::serve_queue(unsigned queue) {
  prepare_thread();
  run_on_cpu(queue);
  std::atomic<int>& takers = takers_[queue];
  const auto entry = UringEntry::make(fuse_session_fd(session_.get()), queue, max_payload);
  if (!entry) {
    --takers;
    tell_shortage("io_uring refuses another entry");
    return;
  }
  short_of_threads_ = false;
  bool served = false;
  for (;;) {
    const std::span<char> request = entry->next();
    if (request.empty()) break;  // the end of the mount, or of this entry
    if (--takers == 0) start_thread(takers, [this, queue] { serve_queue(queue); });
    entry_in_service = entry.get();
    process(request.data(), request.size());
    entry_in_service = nullptr;
    ++takers;
    served = true;
  }
  // An entry that was refused at once would be again.
  const bool was_last = --takers == 0;
  if (was_last && served && fuse_session_exited(session_.get()) == 0)
    start_thread(takers, [this, queue] { serve_queue(queue); });
}

void Session::start_queues() {
  const unsigned queues = uring_queues();
  for (unsigned queue = 0; queue < queues; ++queue) takers_.emplace_back(0);
  for (unsigned queue = 0; queue < queues; ++queue) {
    start_thread(takers_[queue], [this, queue] { serve_queue(queue); });
  }
}

bool Session::serve(std::function<void()> ready) {
  ready_ = std::move(ready);
  start_thread(readers_, [this] { serve_device(); });
  for (size_t i = 0;; ++i) {
    std::thread thread;
    {
      const std::lock_guard lock(threads_mutex_);
      if (i >= threads_.size()) break;
      thread = std::move(threads_[i]);
    }
    thread.join();
  }
  return fuse_session_exited(session_.get()) != 0;
}

}  // namespace limaquota
