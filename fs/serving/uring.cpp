#include "fs/serving/uring.hpp"

#include <fmt/core.h>
#include <linux/fuse.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include "fs/system/log.hpp"

namespace limaquota {
namespace {

// --- of linux/fuse.h, which is older here ---
enum Command : uint32_t { command_register = 1, command_commit_and_fetch = 2 };

struct EntryHeader {
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_bytes;
  uint32_t padding;
  uint64_t reserved;
};

struct RequestHeader {
  char in_out[128];  // fuse_in_header, then fuse_out_header
  char arguments[128];
  EntryHeader entry;
};
static_assert(sizeof(RequestHeader) == 288);

struct CommandData {
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t padding[6];
};
static_assert(sizeof(CommandData) == 24);
// --- until here ---

// The request header lies at the start of this page; the assembled request ends where the payload begins.
constexpr size_t header_page = 4096;
static_assert(sizeof(RequestHeader) + sizeof(fuse_in_header) + sizeof(RequestHeader::arguments) <=
              header_page);

constexpr char enable_uring[] = "/sys/module/fuse/parameters/enable_uring";

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int open_ring(io_uring* ring) {
  io_uring_params params{};
  params.flags = IORING_SETUP_SQE128;
  return ::io_uring_queue_init_params(1, ring, &params);
}

RequestHeader* header_in(char* memory) { return reinterpret_cast<RequestHeader*>(memory); }

}  // namespace

std::optional<std::string> reason_against_uring() {
  const std::string enabled = first_line(enable_uring);
  if (enabled.empty()) return "this kernel has no FUSE over io_uring (Linux 6.14): mount without -o io_uring";
  if (enabled != "Y") {
    return fmt::format(
        "FUSE over io_uring is switched off: echo Y | sudo tee {}, or mount without -o io_uring",
        enable_uring);
  }
  io_uring ring{};
  if (const int status = open_ring(&ring); status != 0) {
    return fmt::format(
        "io_uring: {}; allow it (sysctl kernel.io_uring_disabled=0), or mount without -o io_uring",
        std::strerror(-status));
  }
  ::io_uring_queue_exit(&ring);
  if (uring_queues() == 0) return "cannot tell how many CPUs there may be: mount without -o io_uring";
  return std::nullopt;
}

unsigned uring_queues() {
  // "0-7", or "0"
  const std::string range = first_line("/sys/devices/system/cpu/possible");
  if (range.empty()) return 0;
  const size_t dash = range.rfind('-');
  return static_cast<unsigned>(
             std::strtoul(range.c_str() + (dash == std::string::npos ? 0 : dash + 1), nullptr, 10)) +
         1;
}

std::unique_ptr<UringEntry> UringEntry::make(int device, unsigned queue, size_t max_payload) {
  std::unique_ptr<UringEntry> entry(new (std::nothrow) UringEntry(queue, max_payload));
  if (!entry) return nullptr;
  entry->device_ = device;
  if (open_ring(&entry->ring_) != 0) return nullptr;
  entry->has_ring_ = true;
  void* memory =
      ::mmap(nullptr, header_page + max_payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  entry->memory_ = static_cast<char*>(memory);
  entry->payload_ = entry->memory_ + header_page;
  entry->parts_[0] = {entry->memory_, sizeof(RequestHeader)};
  entry->parts_[1] = {entry->payload_, max_payload};
  return entry;
}

UringEntry::~UringEntry() {
  if (has_ring_) ::io_uring_queue_exit(&ring_);
  if (memory_ != nullptr) ::munmap(memory_, header_page + max_payload_);
}

void UringEntry::prepare() {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return;  // the kernel has not taken the one before yet: it is tried again
  *sqe = {};
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = device_;
  sqe->cmd_op = enlisted_ ? command_commit_and_fetch : command_register;
  if (!enlisted_) {
    sqe->addr = reinterpret_cast<uint64_t>(parts_);
    sqe->len = 2;
  }
  CommandData data{};
  data.commit_id = enlisted_ ? header_in(memory_)->entry.commit_id : 0;
  data.queue = static_cast<uint16_t>(queue_);
  std::memcpy(static_cast<void*>(&sqe->cmd), &data, sizeof data);
}

// Puts header and arguments in front of the payload.
std::span<char> UringEntry::assembled() {
  const RequestHeader* from = header_in(memory_);
  fuse_in_header header;
  std::memcpy(&header, from->in_out, sizeof header);
  unique_ = header.unique;
  const size_t payload = from->entry.payload_bytes;
  const size_t arguments = header.len - sizeof header - payload;
  if (header.len < sizeof header + payload || payload > max_payload_ || arguments > sizeof from->arguments)
    return {};
  char* start = payload_ - arguments - sizeof header;
  std::memcpy(start, &header, sizeof header);
  std::memcpy(start + sizeof header, from->arguments, arguments);
  return {start, header.len};
}

std::span<char> UringEntry::next() {
  for (;;) {
    if (!answered_) {
      const fuse_out_header failed{sizeof failed, -EIO, unique_};
      const iovec part{const_cast<fuse_out_header*>(&failed), sizeof failed};
      reply(&part, 1);
    }
    prepare();
    int status = ::io_uring_submit_and_wait(&ring_, 1);
    io_uring_cqe* done = nullptr;
    while (status == -EINTR || (status >= 0 && ::io_uring_peek_cqe(&ring_, &done) == -EAGAIN)) {
      status = ::io_uring_submit_and_wait(&ring_, 1);
    }
    const int result = done != nullptr ? done->res : status;
    if (done != nullptr) ::io_uring_cqe_seen(&ring_, done);
    if (result == -EINTR || result == -EAGAIN) continue;
    if (result != 0) {
      const bool unmounted = result == -ENOTCONN || result == -ECONNABORTED;
      if (!unmounted) log_error("io_uring gives up an entry of queue {}: {}", queue_, std::strerror(-result));
      return {};
    }
    enlisted_ = true;
    answered_ = false;
    const std::span<char> request = assembled();
    if (!request.empty()) return request;
  }
}

bool UringEntry::reply(const iovec* parts, int count) {
  fuse_out_header header;
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  if (answered_ || header.unique != unique_) return false;
  size_t bytes = 0;
  for (int i = 1; i < count; ++i) {
    if (bytes + parts[i].iov_len > max_payload_) {
      header.error = -EIO;
      bytes = 0;
      break;
    }
    if (parts[i].iov_base != payload_ + bytes)
      std::memmove(payload_ + bytes, parts[i].iov_base, parts[i].iov_len);
    bytes += parts[i].iov_len;
  }
  header.len = static_cast<uint32_t>(sizeof header + bytes);
  RequestHeader* to = header_in(memory_);
  std::memcpy(to->in_out, &header, sizeof header);
  to->entry.payload_bytes = static_cast<uint32_t>(bytes);
  answered_ = true;
  return true;
}

}  // namespace limaquota
