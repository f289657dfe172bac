#include <fmt/core.h>
#include <libnbd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/programs/companion.hpp"
#include "mount-helpers/reclaim/open_disk.hpp"
#include "mount-helpers/reclaim/ranges.hpp"

namespace limaquota {
namespace {

constexpr uint64_t status_step = uint64_t{1} << 30;  // bytes asked for, or given back, by one request
constexpr const char* depth_context = "qemu:allocation-depth";

// A listening socket and a connection to it that already waits in its queue. Its name lives only while this
// function runs, in a directory of its own, so that nobody else connects and nothing stays behind.
struct PrivateSocket {
  Fd listening, connected;
};

PrivateSocket private_socket() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || ::access(runtime, W_OK) != 0) runtime = "/tmp";
  std::string directory = fmt::format("{}/limaquota-XXXXXX", runtime);
  sigset_t all, before;
  ::sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, &before);
  PrivateSocket made{Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                     Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  bool good = directory.size() + 3 < sizeof name.sun_path && ::mkdtemp(directory.data()) != nullptr;
  int error = good ? 0 : errno;
  if (good) {
    fmt::format_to_n(name.sun_path, sizeof name.sun_path - 1, "{}/s", directory);
    const auto* address = reinterpret_cast<const sockaddr*>(&name);
    good = ::bind(made.listening.get(), address, sizeof name) == 0 &&
           ::listen(made.listening.get(), 1) == 0 &&
           ::connect(made.connected.get(), address, sizeof name) == 0;
    if (!good) error = errno;
    ::unlink(name.sun_path);
    ::rmdir(directory.c_str());
  }
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (!good) throw Refusal(fmt::format("cannot make a socket in {}: {}", directory, std::strerror(error)));
  return made;
}

std::vector<std::string> daemon_words(const DiskLock& lock, int listening, Export as) {
  const Json file = {{"driver", "file"},
                     {"node-name", "file"},
                     {"filename", lock.path().string()},
                     {"locking", "off"},  // the lock is ours, and it inherits it
                     {"discard", "unmap"},
                     {"read-only", as == Export::read_only}};
  const Json disk = {{"driver", "qcow2"},
                     {"node-name", "disk"},
                     {"file", "file"},
                     {"discard", "unmap"},
                     {"read-only", as == Export::read_only}};
  return {"qemu-storage-daemon",
          "--blockdev",
          exact_json_text(file),
          "--blockdev",
          exact_json_text(disk),
          "--nbd-server",
          fmt::format("addr.type=fd,addr.str={},max-connections=1", listening),
          "--export",
          fmt::format("type=nbd,id=disk,node-name=disk,name=disk,allocation-depth=on,writable={}",
                      as == Export::writable ? "on" : "off")};
}

// What one request for block status, or all of them, said.
struct Status {
  std::vector<ByteRange> data;  // reads as something but zeros
  std::vector<ByteRange> own;   // in this file, not in one that backs it
  uint64_t data_end = 0, own_end = 0;
};

// nbd_extent_callback: entries are pairs of a length and flags.
int take_status(void* to, const char* context, uint64_t offset, uint32_t* entries, size_t count, int*) {
  auto& status = *static_cast<Status*>(to);
  const bool depth = std::strcmp(context, depth_context) == 0;
  for (size_t i = 0; i + 1 < count; i += 2) {
    const ByteRange range{offset, entries[i]};
    offset = range.end();
    const bool wanted =
        depth ? entries[i + 1] == 1 : (entries[i + 1] & (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO)) == 0;
    if (wanted) append_range(depth ? status.own : status.data, range);
  }
  (depth ? status.own_end : status.data_end) = offset;
  return 0;
}

class Qcow2Disk : public OpenDisk {
 public:
  Qcow2Disk(const DiskLock& lock, uint64_t cluster, Export as)
      : name_(escape_name(lock.path().string())), cluster_(cluster), nbd_(::nbd_create(), &::nbd_close) {
    if (!find_program("qemu-storage-daemon")) {
      throw Refusal("there is no qemu-storage-daemon: install QEMU (Debian: qemu-system-common)");
    }
    PrivateSocket socket = private_socket();
    daemon_ = std::make_unique<Companion>(daemon_words(lock, socket.listening.get(), as),
                                          std::vector<int>{socket.listening.get(), lock.fd()});
    socket.listening.reset();  // so that the connection breaks when the daemon ends
    if (!nbd_ || ::nbd_set_export_name(nbd_.get(), "disk") != 0 ||
        ::nbd_add_meta_context(nbd_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
        ::nbd_add_meta_context(nbd_.get(), depth_context) != 0 ||
        ::nbd_connect_socket(nbd_.get(), socket.connected.release()) != 0) {
      fail("cannot open");
    }
    if (::nbd_can_meta_context(nbd_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 1 ||
        ::nbd_can_meta_context(nbd_.get(), depth_context) != 1) {
      throw Refusal("this qemu-storage-daemon does not tell what is allocated: QEMU 5.2 or later is needed");
    }
    size_ = static_cast<uint64_t>(::nbd_get_size(nbd_.get()));
  }
  ~Qcow2Disk() override { daemon_->end(); }

  Bytes size() const override { return Bytes(size_); }
  uint64_t granule() const override { return cluster_; }

  // Whole clusters: zeros that share one with data stay with it.
  Layout layout() override {
    const Status all = status();
    Layout layout{.data = whole_granules(intersection(all.data, all.own), cluster_, size_), .zeros = {}};
    layout.zeros = intersection(all.own, holes_between(layout.data, size_));
    return layout;
  }

  void read(uint64_t offset, std::span<std::byte> into) override {
    if (into.empty()) return;  // libnbd takes no such request
    if (::nbd_pread(nbd_.get(), into.data(), into.size(), offset, 0) != 0) fail("cannot read");
  }

  void punch(ByteRange range) override {
    while (range.length > 0) {
      const uint64_t length = std::min(range.length, status_step);
      if (::nbd_trim(nbd_.get(), length, range.offset, 0) != 0) fail("cannot discard clusters of");
      range = {range.offset + length, range.length - length};
    }
  }

  // The daemon writes its caches at the flush, and closes the image in order at its end.
  void finish() override {
    if (::nbd_flush(nbd_.get(), 0) != 0) fail("cannot flush");
    ::nbd_shutdown(nbd_.get(), 0);
    daemon_->end();
  }

 private:
  Status status() {
    Status all;
    for (uint64_t offset = 0; offset < size_;) {
      Status part;
      const nbd_extent_callback callback{.callback = take_status, .user_data = &part, .free = nullptr};
      const uint64_t length = std::min(status_step, size_ - offset);
      if (::nbd_block_status(nbd_.get(), length, offset, callback, 0) != 0) fail("cannot find the holes of");
      // Each context may answer for more or less than the other.
      const uint64_t end = std::min(part.data_end, part.own_end);
      if (end <= offset) throw Refusal(fmt::format("{}: block status that goes nowhere", name_));
      for (const ByteRange range : part.data) append_range(all.data, clipped(range, end));
      for (const ByteRange range : part.own) append_range(all.own, clipped(range, end));
      offset = end;
    }
    return all;
  }

  [[noreturn]] void fail(const char* what) {
    std::string why = ::nbd_get_error() != nullptr ? ::nbd_get_error() : "no memory";
    if (!daemon_->runs(std::chrono::milliseconds(500))) why = daemon_->wait().complaint();
    throw Refusal(fmt::format("{} {}: {}", what, name_, why));
  }

  std::string name_;
  uint64_t cluster_;
  uint64_t size_ = 0;
  std::unique_ptr<Companion> daemon_;
  std::unique_ptr<nbd_handle, decltype(&::nbd_close)> nbd_;
};

}  // namespace

std::unique_ptr<OpenDisk> open_qcow2_disk(const DiskLock& lock, uint64_t cluster, Export as) {
  return std::make_unique<Qcow2Disk>(lock, cluster, as);
}

}  // namespace limaquota
