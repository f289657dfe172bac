// What outlives a worker: memory that the supervisor and its workers share, beside their descriptors. A
// worker that takes over finds in it what neither a scan of the tree nor the descriptors themselves can tell.
//
// Supervisor and worker are made by clone(2) with CLONE_FILES: one table of descriptors, so that those of a
// killed worker stay open under their numbers, and the kernel's file handles, which are those numbers, go on.
//
// Crash safety: each fact is one atomic word, written before the kernel learns of it, or taken back before it
// is given up; what is written between two system calls may be found without what comes after it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "accounting/ledger.hpp"
#include "accounting/result.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// What a descriptor is for. A descriptor with none of these is one that a worker had for a moment.
enum class DescriptorUse : uint8_t {
  passing,
  lasting,      // the supervisor's own: the tree's root, the log, /dev/fuse
  inode,        // O_PATH, of an inode that the kernel knows
  file,         // open file of the kernel's, through the page cache
  direct_file,  // open file of the kernel's, by direct I/O
  directory,    // open directory of the kernel's
  text          // what an open file below `.usage` shows; its handle stands where lookups do
};

// All that this process has open, but for the look itself.
Result<std::vector<int>> open_descriptors();

// What a request was about to do to a name, noted before its system call: the inodes that stood there.
struct Intent {
  uint64_t first = 0;
  uint64_t second = 0;
  uint32_t third = 0;
};

class Handover {
 public:
  // Counts the changes of what is noted here or of what it means: no program takes over what it would
  // misread.
  static constexpr uint64_t version = 2;
  static constexpr int most_descriptors = 1 << 20;

  class Descriptor {
   public:
    std::atomic<uint32_t> account;  // of an inode without a name: see account_index
    std::atomic<uint64_t> lookups;  // that the kernel has of an inode, or more

    DescriptorUse use() const { return static_cast<DescriptorUse>(state_ & use_mask); }
    // By the one who has the descriptor.
    void set_use(DescriptorUse use) { state_ = (state_ & ~use_mask) | static_cast<uint32_t>(use); }
    // Of a file handle: it tells a late RELEASE from the present owner.
    uint32_t generation() const { return state_ >> use_bits; }
    // In one step: the use ends, and with it the generation. False where it was not this one any more.
    bool end_use(uint32_t generation);

   private:
    static constexpr unsigned use_bits = 3;
    static constexpr uint32_t use_mask = (1U << use_bits) - 1;
    std::atomic<uint32_t> state_;
  };

  // One for each thread that serves a request.
  struct Slot {
    std::atomic<bool> taken;
    std::atomic<bool> intended;
    std::atomic<int> opened;       // descriptor that was opened for it, plus one
    std::atomic<uint32_t> served;  // by the worker after so many restarts
    std::atomic<uint64_t> unique;  // the request in service
    std::atomic<uint64_t> first, second;
    std::atomic<uint32_t> third;
  };

  // Null where there is no memory for it.
  static Handover* make();
  // The notes of a daemon, by their descriptor, for another program: to go on with them, or only to look at
  // them. Null where that program notes things in another way.
  static Handover* map(int notes, bool to_go_on);
  static constexpr char memory_name[] = "limaquota-notes";  // of the memory, in /proc

  // --- what the next program must know, see fs/daemon/upgrade.hpp ---
  uint64_t layout = 0;
  int notes = -1;             // the descriptor of this memory
  std::atomic<int> previous;  // of the program before, plus one, until this one has shown that it can serve
  std::atomic<pid_t> prober;
  std::atomic<uint32_t> upgrades, refused_upgrades, failed_upgrades;
  // Of the mount (fs/daemon/mount_home.cpp); the first is its mountpoint. False where there is no room for
  // them.
  bool keep_words(const std::vector<std::string>& words);
  std::vector<std::string> words() const;

  // --- the connection ---
  pid_t supervisor = 0;
  std::atomic<pid_t> worker;
  std::atomic<uint32_t> restarts;
  std::atomic<int> device;        // /dev/fuse, plus one
  std::atomic<bool> restartable;  // INIT was answered, and this kernel sends requests again
  std::atomic<bool> told;         // who waits for the mount to answer has heard of it
  std::atomic<bool> ready;        // the mount answered once
  std::atomic<bool> gone;         // the mount: what served it is being taken down
  // Since when the worker serves requests, by the steady clock's own count; 0 while it takes over.
  std::atomic<int64_t> serving_since;
  std::atomic<int64_t> answered;  // when it did so last: the steady clock's own count
  uint32_t init_request_bytes = 0, init_reply_bytes = 0;
  char init_request[512], init_reply[512];

  Descriptor& descriptor(int fd) { return descriptors_[fd]; }
  // At the start of a worker that takes over: closes what the one before had for a moment, and gives what the
  // kernel knows and has open. Fails where it cannot see what is open.
  Result<std::vector<int>> inherit();

  // --- slots ---
  Slot* take_slot();
  // At the start of a worker that takes over: those of the threads that died are free once their requests
  // came again.
  void release_slots();
  std::span<Slot> used_slots() { return {slots_, slots_used_}; }
  // Of the slots: none has this descriptor as opened for its request any more.
  void forget_opened(int fd);

  // --- texts: what the files below `.quota` hold that is not in force ---
  void keep_text(std::string_view text);
  std::string kept_text() const;

  // --- names of accounts, by a number that stays; 0 stands for none. Any thread of one process. ---
  uint32_t account_index(std::string_view name);
  std::string account_name(uint32_t index) const;
  uint32_t accounts() const { return accounts_; }  // the largest number
  // Of an account: written by one thread, word by word.
  Ledger::Memory& memory(uint32_t index) { return memories_[index - 1]; }

  // --- filesystems below the tree, in the order in which their inodes' ids count them ---
  static constexpr size_t most_devices = 4096;
  std::atomic<uint32_t> devices;
  uint64_t device_numbers[most_devices];

 private:
  static constexpr size_t most_slots = 4096;
  static constexpr size_t most_text = size_t{5} << 20;
  static constexpr size_t most_words = size_t{64} << 10;
  size_t words_bytes_ = 0;
  char words_[most_words];  // each with a zero at its end
  static constexpr size_t most_accounts = 65536;
  static constexpr size_t longest_name = 288;
  Descriptor descriptors_[most_descriptors];
  std::atomic<uint32_t> accounts_;
  char account_names_[most_accounts][longest_name];
  static_assert(std::is_trivially_copyable_v<Ledger::Memory>);
  Ledger::Memory memories_[most_accounts];
  bool is_opened(int fd) const;  // for the request of a slot
  Slot slots_[most_slots];
  std::atomic<uint32_t> slots_used_;  // slots beyond were never taken
  std::atomic<uint32_t> text_now_;
  size_t text_bytes_[2];
  char texts_[2][most_text];
};

// The worker's; null in a process that serves no mount.
extern Handover* handover;

// Notes of the request that this thread serves. All do nothing without a handover.
class InService {
 public:
  // From here on, until the object ends, the thread serves this request. One that comes again takes over what
  // it was about to do, and closes what was opened for it before, unless it `creates`.
  InService(uint64_t unique, bool creates);
  ~InService();
  InService(const InService&) = delete;
  InService& operator=(const InService&) = delete;

  // Whether what is noted outlives this process.
  static bool noting();
  // What the same request was about to do when it was served by a worker that died.
  static std::optional<Intent> earlier();
  static void intend(Intent intent);
  // For a request that creates a file: what it opened, as soon as it is open, and that it is to be closed
  // (-1); and what it had opened before, if anything.
  static void note_opened(int fd);
  static Fd opened_before();
  // Called with a descriptor that was taken over as an open file, but of which the kernel never learned.
  static std::function<void(int fd)> on_never_known;

 private:
  static void close_opened_before();
};

// The descriptor is now the kernel's file handle; the handle's value.
uint64_t handle_of(int fd, DescriptorUse use);
inline int descriptor_of(uint64_t handle) { return static_cast<int>(handle & 0xffffffff); }
// False where the handle was given back before: a RELEASE that comes again. Else it may be closed now.
bool give_back_handle(uint64_t handle);

}  // namespace limaquota
