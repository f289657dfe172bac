// The ledger: accounts, what they use, and the reservations that keep them within their limits.
//
// Every figure of every account is guarded by one mutex, held for tens of nanoseconds and never across a
// system call. So there is one truth: no moment in which used + reserved of an account is above its limit
// except as promise P1 (docs/promises.md) allows, and a snapshot is consistent for free.
//
//   used       bytes charged (st_blocks * 512 of every inode of the account, seen by fstat after each change)
//   in flight  reserved for an operation that is under way
//   slack      reserved for what the backing filesystem may still allocate for changes already made
//   reserved = in flight + slack
//
// An attached disk's account (`_disks/<name>` with `in_use_by`) is *charged to* its VM: its figures are part
// of the VM's, whose limit holds for both; its own limit rests.
//
// Thread safety: every member function may be called from any thread.
#pragma once

#include <boost/container/small_vector.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "accounting/bytes.hpp"
#include "accounting/figures.hpp"
#include "accounting/growth.hpp"
#include "accounting/image_header.hpp"
#include "accounting/limits.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {

using AccountId = uint32_t;

// Up to where a reservation may go. disk: the disk line and the host reserve. control: the limit less the
// hand (blocks that only freeing may take) and a quarter of the host reserve. moving: the limit itself.
// exempt: only the quarter of the host reserve.
enum class Line : uint8_t { disk, control, moving, exempt };

// The host's free bytes, and how much had been allocated through the ledger when they were read. What was
// committed since is taken off, so that a sample that is a moment old never counts a byte twice.
struct HostSample {
  Bytes free = Bytes::unlimited();
  uint64_t allocated_before = 0;
};

struct Claim {
  AccountId account = 0;
  Bytes bytes;
};
using Claims = boost::container::small_vector<Claim, 2>;

// What an operation did to one inode.
struct Change {
  AccountId account = 0;
  Bytes charge_before, charge_after;
  Bytes slack_before, slack_after;
  uint64_t disk = 0;  // the inode's disk record, which follows; 0: none
  Bytes disk_size{};  // of its file: the virtual size of a raw image
};

// What a reservation did not fit: the budget of an account, or what the host may spare.
enum class RefusedBy : uint8_t { budget, host };

// Why a reservation was not given.
struct Refused {
  Bytes room;                     // what the line leaves now for one more claim (the tightest account's)
  bool others_in_flight = false;  // operations under way may still give something back: wait_for_change
  RefusedBy by = RefusedBy::budget;
};

class Ledger;

// Bytes set aside for one operation. Move-only. Leaving scope rolls back; commit() turns it into usage.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  ~Reservation() { roll_back(); }

  explicit operator bool() const { return ledger_ != nullptr; }

  // Applies the changes and gives back what was reserved, in one step of the ledger.
  void commit(const Change* changes, size_t count);
  void roll_back();

 private:
  friend class Ledger;
  Ledger* ledger_ = nullptr;
  Claims claims_;
};

// What came of asking for a reservation.
struct Reserved {
  std::optional<Reservation> given;
  Refused refused;  // where nothing was given
};

// A disk file as the figures show it; kept by the ledger so that snapshots are consistent.
struct DiskRecord {
  AccountId account = 0;
  std::string name;
  ImageHeader header;
  Bytes allocated;
};

class Ledger {
 public:
  // `hand` bytes below each limit are left to operations that free (see Line).
  static constexpr Bytes hand = Bytes(64 * 1024);

  Ledger();
  ~Ledger();

  // --- accounts ---
  // The account of that name; made when missing, without a limit.
  AccountId open(std::string_view name);
  std::optional<AccountId> find(std::string_view name) const;
  std::string name(AccountId account) const;
  // Whose limit holds for it: the VM's that a disk is attached to, else its own.
  AccountId payer(AccountId account) const;
  std::vector<std::string> names() const;
  // Takes an account away that no inode is charged to any more. Its name may then be opened anew.
  void close(AccountId account);

  // Where the limits of an account come from: a file of its own; else `_default`, for a VM, or nowhere.
  enum class LimitsFrom : uint8_t { own_file, default_file };
  void set_limits(AccountId account, const Limits& limits, LimitsFrom from);
  void set_damaged(AccountId account, bool damaged);
  void set_outside(AccountId account, bool outside);
  void set_virtual_fallback(AccountId account,
                            Bytes planned);  // lima.yaml's disk, while there is no disk file
  // Charges `disk`'s account to `vm` (attach) or to itself again (nothing).
  void charge_to(AccountId disk, std::optional<AccountId> vm);
  // Wall clock in Unix seconds, from the one who ticks: loans end by it.
  void set_time(int64_t unix_seconds);
  void set_host_reserve(Bytes reserve);
  Bytes host_reserve() const;

  // --- reservations ---
  HostSample before_host_sample() const;  // then read the host's free bytes into `free`
  // Sets all claims aside or none.
  Reserved reserve(const Claims& claims, Line line, const HostSample& host);
  // Blocks until any reservation ends or slack is given back, at most `milliseconds`.
  void wait_for_change(unsigned milliseconds);
  // Changes that need no reservation: frees, and figures seen at settling.
  void apply(const Change* changes, size_t count);
  void note_refusal(AccountId account, Bytes bytes, RefusedBy by);
  // Moves a charge (and slack) between accounts, whatever the limits say.
  void move(AccountId from, AccountId to, Bytes charge, Bytes slack);

  // --- disks ---
  void put_disk(uint64_t inode, const DiskRecord& record);
  void drop_disk(uint64_t inode);
  void set_disk_header(uint64_t inode, const ImageHeader& header);

  // --- figures ---
  void tick(double seconds_since_last);  // feeds the growth figures
  Snapshot snapshot(Bytes host_free) const;
  std::optional<AccountFigures> figures(std::string_view name, Bytes host_free) const;
  HostFigures host_figures(Bytes host_free) const;
  // What figures remember since the mount, for a process that goes on where another ended.
  struct Memory {
    Bytes peak;
    uint64_t refused_writes = 0;
    uint64_t refused_bytes = 0;
    bool pressed_budget = false;  // a disk write was refused and nothing much was freed since
    bool pressed_host = false;
  };
  // Nothing for an account that is closed.
  std::optional<Memory> memory(AccountId account) const;
  void remember(AccountId account, const Memory& memory);
  size_t ids() const;  // how many ids there are; those of closed accounts too
  // What a disk write in the account may take now, and its disk line: for statfs.
  struct Room {
    Bytes disk_line, writable, used;
  };
  Room room(AccountId account, Bytes host_free) const;

 private:
  friend class Reservation;
  struct Account;
  Account& at(AccountId id) REQUIRES(mutex_);
  const Account& at(AccountId id) const REQUIRES(mutex_);
  const Account& payer(const Account& account) const REQUIRES(mutex_);
  Account& payer(Account& account) REQUIRES(mutex_);
  Bytes line_bytes(const Account& account, Line line) const REQUIRES(mutex_);
  Bytes host_room(const HostSample& host, Line line) const REQUIRES(mutex_);
  void give_back(const Claims& claims) REQUIRES(mutex_);
  void apply_locked(const Change& change) REQUIRES(mutex_);
  void drop_disk_locked(uint64_t inode) REQUIRES(mutex_);
  AccountFigures figures_locked(const Account& account, Bytes host_free) const REQUIRES(mutex_);
  void add_disks(const Account& account, AccountFigures& figures) const REQUIRES(mutex_);
  // `budget` and `host`: what they leave for a disk write.
  AccountState state_of(const Account& account, const AccountFigures& figures, Bytes budget, Bytes host) const
      REQUIRES(mutex_);
  HostFigures host_locked(Bytes host_free) const REQUIRES(mutex_);
  void changed() REQUIRES(mutex_);

  mutable Mutex mutex_;
  Condition condition_;
  // By id; closed ones too: they have no name in by_name_.
  std::vector<std::unique_ptr<Account>> accounts_ GUARDED_BY(mutex_);
  std::map<std::string, AccountId, std::less<>> by_name_ GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, DiskRecord> disks_ GUARDED_BY(mutex_);
  Bytes host_reserve_ GUARDED_BY(mutex_) = default_host_reserve;
  Bytes outstanding_ GUARDED_BY(mutex_);       // in flight + slack, over all accounts
  uint64_t allocated_ GUARDED_BY(mutex_) = 0;  // bytes ever charged: see HostSample
  int64_t now_ GUARDED_BY(mutex_) = 0;
  uint64_t changes_ GUARDED_BY(mutex_) = 0;
  unsigned waiters_ GUARDED_BY(mutex_) = 0;
};

}  // namespace limaquota
