#include "fs/serving/session.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "fs/serving/operations.hpp"
#include "fs/serving/reply.hpp"
#include "fs/serving/request_kind.hpp"

namespace limaquota {
namespace {
constexpr int32_t notify_resend = 7;  // FUSE_NOTIFY_RESEND, Linux 6.9
}  // namespace

Session::Session(Filesystem& fs, Fd device, Transport transport)
    : fs_(fs), device_(std::move(device)), table_(operation_table()) {
  char name[] = "limaquota";
  char* argv[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  session_.reset(fuse_session_new(&args, &table_, sizeof table_, &fs_));
  fuse_opt_free_args(&args);
  // libfuse closes the descriptor that it is given.
  Fd own(::fcntl(device_.get(), F_DUPFD_CLOEXEC, 0));
  const std::string path = "/dev/fd/" + std::to_string(own.get());
  if (!session_ || !own || fuse_session_mount(session_.get(), path.c_str()) != 0) {
    session_.reset();
    return;
  }
  handshake_ = std::make_unique<Handshake>(fs_.notes, session_.get(), own.release(), transport);
  threads_ = std::make_unique<ServingThreads>(device_.get(), static_cast<Server&>(*this));
  fs_.tree.kernel.set_kernel(
      {[this](NodeId parent, const std::string& entry) {
         fuse_lowlevel_notify_inval_entry(session_.get(), parent, entry.c_str(), entry.size());
       },
       // Only its attributes are to be asked for anew.
       [this](NodeId id) { return fuse_lowlevel_notify_inval_inode(session_.get(), id, -1, 0) != -ENOENT; }});
}

Session::~Session() { fs_.tree.kernel.set_kernel({}); }

Result<void> Session::shake_hands() {
  const auto shaken = handshake_->shake();
  has_queues_ = shaken && handshake_->transport() == Transport::io_uring;
  return shaken;
}

bool Session::take_over() {
  if (!handshake_->repeat()) return false;
  const fuse_out_header again{sizeof again, notify_resend, 0};
  const ssize_t sent = ::write(device_.get(), &again, sizeof again);
  // Where it was unmounted meanwhile, serving ends at once.
  return sent == sizeof again || errno == ENODEV || errno == ENOTCONN;
}

bool Session::serve() {
  if (has_queues_) threads_->start_queues();
  return threads_->run();
}

std::unique_ptr<RequestContext> Session::context() {
  return std::make_unique<RequestContext>(device_.get(), fs_.notes,
                                          [this](int fd) { fs_.tree.takeover.never_known(fd); });
}

void Session::serve(RequestContext& context, std::span<char> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
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
    gates_.pass(inode->account(), request.data(), request.size(), serve_one);
  } catch (const std::bad_alloc&) {
    serve_bound(context, request);  // no memory to have it wait
  }
}

void Session::serve_bound(RequestContext& context, std::span<char> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  const RequestContext::Serving serving(context);
  context.unique = header->unique;
  context.kill_set_id = kills_set_id(request.data(), request.size());
  if (context.entry != nullptr && !is_served(header->opcode)) return refuse(context, ENOSYS);
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

}  // namespace limaquota
