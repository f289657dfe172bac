// What outlives a worker (P11): memory that the supervisor and its workers share, beside their descriptors. A
// worker that takes over finds in it what neither a scan of the tree nor the descriptors themselves can tell.
//
// Crash safety: each fact is one atomic word, written before the kernel learns of it, and taken back before
// it ends. A worker may die between any two of these words: a reader must not conclude from one that the next
// was written.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "accounting/result.hpp"
#include "fs/handover/account_notes.hpp"
#include "fs/handover/descriptor_notes.hpp"
#include "fs/handover/request_notes.hpp"
#include "fs/handover/text_notes.hpp"

namespace limaquota {

// The daemon's processes, and how its worker fares. Times are the steady clock's own count.
struct ProcessNotes {
  pid_t supervisor = 0;  // 0: nobody serves a mount with these notes
  std::atomic<pid_t> worker, prober;
  std::atomic<uint32_t> restarts;
  std::atomic<bool> told;              // who waits for the mount to answer has heard of it
  std::atomic<bool> ready;             // the mount answered once
  std::atomic<bool> gone;              // the mount: what served it is being taken down
  std::atomic<int64_t> serving_since;  // the worker serves requests; 0 while it takes over
  std::atomic<int64_t> answered;       // when it did so last

  bool takes_over() const { return restarts > 0; }
};

// The connection to the kernel, and the handshake that opened it.
struct ConnectionNotes {
  std::atomic<int> device;        // /dev/fuse, plus one
  std::atomic<bool> restartable;  // INIT was answered, and this kernel sends requests again
  uint32_t init_request_bytes = 0, init_reply_bytes = 0;
  char init_request[512], init_reply[512];
};

// Going on as another program, see fs/daemon/upgrade.hpp.
struct UpgradeNotes {
  std::atomic<int> previous;  // the program before, plus one, until this one has shown that it can serve
  std::atomic<uint32_t> done, refused, failed;
};

// Filesystems below the tree, in the order in which their inodes' ids count them.
struct DeviceNotes {
  static constexpr size_t most = 4096;
  std::atomic<uint32_t> count;
  uint64_t numbers[most];
};

// All of it is zero at first, which is what each part starts as.
struct Notes {
  // Counts the changes of what is noted here or of what it means: no program takes over what it would
  // misread.
  static constexpr uint64_t version = 3;
  static constexpr char memory_name[] = "limaquota-notes";  // of the memory, in /proc

  uint64_t layout = 0;  // by which another program knows whether it can read this
  int descriptor = -1;  // of this memory
  ProcessNotes process;
  ConnectionNotes connection;
  UpgradeNotes upgrade;
  WordsNote mounted;  // of the mount (fs/daemon/mount_home.cpp); the first is its mountpoint
  DescriptorNotes descriptors;
  RequestNotes requests;
  DeviceNotes devices;
  AccountNotes accounts;
  TextNote quota_texts;

  // Null where there is no memory for it.
  static Notes* make();
  // The notes of a daemon, by their descriptor, for another program. Null where that program notes things in
  // another way.
  enum class Purpose : uint8_t { looking, going_on };
  static Notes* map(int descriptor, Purpose purpose);
  // For a process that serves no mount: what is noted here nobody reads. Throws std::bad_alloc.
  struct Unmap {
    void operator()(Notes* notes) const;
  };
  static std::unique_ptr<Notes, Unmap> unshared();

  // At the start of a worker that takes over: closes what the one before had for a moment, and gives what the
  // kernel knows and has open. Fails where it cannot see what is open.
  Result<std::vector<int>> inherit();
};

}  // namespace limaquota
