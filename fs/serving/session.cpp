#include "fs/serving/session.hpp"

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fs/serving/request_kind.hpp"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace limaquota {
namespace {

constexpr int32_t notify_resend = 7;  // FUSE_NOTIFY_RESEND, Linux 6.9

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

// The reply of OPEN and CREATE, which ends with a fuse_open_out, gets: several direct writes within a file
// may be under way at once, as they take turns here; closing needs no FLUSH.
void complete_open(const iovec& body, uint32_t flags) {
  if (body.iov_len < sizeof(fuse_open_out)) return;
  char* end = static_cast<char*>(body.iov_base) + body.iov_len;
  fuse_open_out open;
  std::memcpy(&open, end - sizeof open, sizeof open);
  open.open_flags |= flags;
  std::memcpy(end - sizeof open, &open, sizeof open);
}

ssize_t read_request(int device, void* buffer, size_t size, void*) {
  const ssize_t got = ::read(device, buffer, size);
  after_request();
  return got;
}

ssize_t write_reply(int device, iovec* parts, int count, void* userdata) {
  before_answer();
  return static_cast<Connection*>(userdata)->session.reply(device, parts, count);
}

}  // namespace

Session::Session(Filesystem& fs, Fd device, Transport transport)
    : fs_(fs),
      connection_{fs, *this},
      table_(operation_table()),
      handshake_(fs.notes, transport == Transport::io_uring) {
  char name[] = "limaquota";
  char* argv[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  session_.reset(fuse_session_new(&args, &table_, sizeof table_, &connection_));
  fuse_opt_free_args(&args);
  if (!session_) return;
  // Newer libfuse has more of them; what is not set is not used, splicing among it.
  static const fuse_custom_io io = [] {
    fuse_custom_io ours{};
    ours.writev = write_reply;
    ours.read = read_request;
    return ours;
  }();
  if (fuse_session_custom_io(session_.get(), &io, device.get()) != 0) {
    session_.reset();
    return;
  }
  (void)device.release();  // libfuse's now
  threads_ = std::make_unique<ServingThreads>(session_.get(), *this);
  fs_.tree.set_kernel(
      {[this](NodeId parent, const std::string& entry) {
         fuse_lowlevel_notify_inval_entry(session_.get(), parent, entry.c_str(), entry.size());
       },
       // Only its attributes are to be asked for anew.
       [this](NodeId id) { return fuse_lowlevel_notify_inval_inode(session_.get(), id, -1, 0) != -ENOENT; }});
}

Session::~Session() { fs_.tree.set_kernel({}); }

ssize_t Session::reply(int device, iovec* parts, int count) {
  const auto* header = static_cast<const fuse_out_header*>(parts[0].iov_base);
  RequestContext* context = RequestContext::current();
  const bool has_body = count >= 2 && header->error == 0 && header->unique != 0;  // 0: a notification
  if (context != nullptr && has_body && context->open_reply != 0)
    complete_open(parts[1], context->open_reply);
  if (context != nullptr && context->entry != nullptr && context->entry->reply(parts, count))
    return header->len;
  if (!has_body || !handshake_.is_answer(*header)) return ::writev(device, parts, count);
  const ssize_t written = handshake_.answer(device, parts, count);
  if (handshake_.is_repeated()) return written;
  if (handshake_.over_io_uring()) threads_->start_queues();
  if (ready_) ready_();
  return written;
}

bool Session::take_over() {
  std::vector<char> init = handshake_.begin_again();
  const auto own = context();
  serve(*own, init);
  if (!handshake_.agrees()) return false;
  const fuse_out_header again{sizeof again, notify_resend, 0};
  const ssize_t sent = ::write(fuse_session_fd(session_.get()), &again, sizeof again);
  // Where it was unmounted meanwhile, serving ends at once.
  return sent == sizeof again || errno == ENODEV || errno == ENOTCONN;
}

std::unique_ptr<RequestContext> Session::context() {
  return std::make_unique<RequestContext>(fs_.notes, [this](int fd) { fs_.tree.never_known(fd); });
}

void Session::serve(RequestContext& context, std::span<char> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  if (header->opcode == FUSE_INIT) handshake_.begin(request);
  const InodePtr inode =
      header->nodeid == root_node || is_virtual(header->nodeid) || never_waits(header->opcode)
          ? nullptr
          : fs_.table.find(header->nodeid);
  if (!inode) {
    serve_bound(context, request);
    return;
  }
  const auto serve_one = [&](char* bytes, size_t length) { serve_bound(context, {bytes, length}); };
  try {
    gates_.pass(inode->charge.account, request.data(), request.size(), serve_one);
  } catch (const std::bad_alloc&) {
    serve_bound(context, request);  // no memory to have it wait
  }
}

void Session::serve_bound(RequestContext& context, std::span<char> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  if (header->opcode != FUSE_INIT) handshake_.wait();
  const RequestContext::Serving serving(context);
  context.kill_set_id = kills_set_id(request.data(), request.size());
  context.open_reply = 0;
  std::optional<Replay::InService> in_service;
  if (may_not_be_repeated(header->opcode)) {
    const auto makes = header->opcode == FUSE_CREATE ? Replay::Makes::file : Replay::Makes::no_file;
    in_service.emplace(context.replay, header->unique, makes);
  }
  fuse_buf buffer{};
  buffer.mem = request.data();
  buffer.size = request.size();
  fuse_session_process_buf(session_.get(), &buffer);
}

bool Session::serve(std::function<void()> ready) {
  ready_ = std::move(ready);
  threads_->run();
  return fuse_session_exited(session_.get()) != 0;
}

}  // namespace limaquota
