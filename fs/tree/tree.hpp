// Operations on names and attributes of the tree: lookup, create, link, rename and their kin, each with its
// charge.
#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"
#include "fs/handover/replay.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/metering/metered_io.hpp"
#include "fs/metering/settler.hpp"
#include "fs/system/caller.hpp"
#include "fs/tree/accounts.hpp"

namespace limaquota {

// An inode that the kernel gets to know (one lookup is counted), with its attributes.
struct Entry {
  InodePtr inode;
  struct stat st {};
};

// Thread safety: all functions may be called from any thread.
class Tree {
 public:
  Tree(const Backing& backing, Notes& notes, Ledger& ledger, InodeTable& table, Accounts& accounts,
       LimitStore& limits, MeteredIo& io, Settler& settler)
      : backing_(backing),
        notes_(notes),
        ledger_(ledger),
        table_(table),
        accounts_(accounts),
        limits_(limits),
        io_(io),
        settler_(settler) {}

  // Charges everything that is there. Called once, before the mount is served.
  Result<void> scan();

  Result<Entry> lookup(Inode& parent, const char* name);
  // An inode that the kernel asks for by its id alone (name_to_handle_at, open_by_handle_at): one that is
  // known, or found by its file handle, as root.
  Result<Entry> reopen(NodeId id);
  void forget(NodeId id, uint64_t count);
  // For the settle list: the inode is off it.
  void let_go(const InodePtr& inode) { forget(inode->id, 0); }

  Result<struct stat> attributes(Inode& inode);
  // What st_ino and st_blocks the kernel is to see.
  static void shown(const Inode& inode, struct stat& st);

  struct Created {
    Entry entry;
    Fd fd;
  };
  // `replay` is that of the request in service.
  Result<Created> create(Replay& replay, Inode& parent, const char* name, mode_t mode, int flags,
                         const Caller& caller);
  Result<Entry> mknod(Replay& replay, Inode& parent, const char* name, mode_t mode, dev_t device,
                      const Caller& caller);
  Result<Entry> mkdir(Replay& replay, Inode& parent, const char* name, mode_t mode, const Caller& caller);
  Result<Entry> symlink(Replay& replay, Inode& parent, const char* name, const char* target,
                        const Caller& caller);
  Result<Created> tmpfile(Inode& parent, mode_t mode, int flags, const Caller& caller);
  Result<Entry> link(Replay& replay, Inode& inode, Inode& parent, const char* name);
  Result<void> unlink(Replay& replay, Inode& parent, const char* name, bool directory);
  Result<void> rename(Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                      const char* new_name, unsigned flags);

  Result<void> setxattr(Replay& replay, Inode& inode, const char* name, const void* value, size_t size,
                        int flags);
  Result<void> removexattr(Replay& replay, Inode& inode, const char* name);

  // The blocks of the limit files changed: charges them anew.
  void recharge_limit_files();
  // Has the kernel forget names where it knows so many inodes that descriptors run short. Not to be called by
  // a thread that serves a request: the kernel may hold the directory's lock for that very request.
  void forget_some();
  // Whether it knows so many now.
  bool knows_many() const { return table_.known() > most_known_; }
  // What the tree asks of the kernel: set by the session while it lives, and taken back (empty) before it
  // ends.
  struct Kernel {
    std::function<void(NodeId parent, const std::string& name)> forget_name;
    std::function<bool(NodeId id)> knows;  // whether it has the inode in memory now
  };
  void set_kernel(Kernel kernel);
  // After scan, in a worker that takes over: the inodes that the kernel knows and the files it has open, by
  // the descriptors of the worker before.
  Result<void> take_over(const std::vector<int>& descriptors);
  // An open file was taken over of which the kernel never learned.
  void never_known(int fd);
  // A kill may leave more lookups noted than the kernel has: asks it for inodes that were taken over, until
  // that is settled for each.
  void ask_for_taken_over();
  // Looks again at directories in which something could not be looked at when it was made.
  void recount_now();
  // A descriptor of the inode was closed.
  void closed(const InodePtr& inode);

 private:
  // What stands at a name before an operation that may take it away.
  struct Victim {
    NodeId id = 0;
    Fd path;
    struct stat st {};
    InodePtr inode;  // where the kernel knows it
  };
  // What is known of an inode from outside the table.
  struct Child {
    AccountId account = 0;
    Role role = Role::plain;
    bool is_disk = false;
    bool is_yaml = false;
  };

  Child child_of(Role role, AccountId account, std::string_view name, mode_t type);
  Result<Entry> enter(Inode& parent, const char* name, Fd path, MeteredIo::Changes* changes);
  Result<Entry> make(Replay& replay, Inode& parent, const char* name, mode_t type,
                     const std::function<Result<void>()>& operation, size_t value_size = 0,
                     bool* made_before = nullptr);
  bool stands(const Inode& parent, const char* name) const;
  bool has_xattr(const Inode& inode, const char* name) const;
  bool xattr_is(const Inode& inode, const char* name, const void* value, size_t size) const;
  void note_victim(const Victim& victim);
  Result<Victim> look_at(Inode& parent, const char* name);
  // `handle` may be empty: it is asked for then.
  void add_charge(NodeId id, const Child& child, const char* name, int path, const struct stat& st,
                  MeteredIo::Changes* changes, std::string handle = {});
  // What a new Inode is told of the inode that it stands for.
  void describe(Inode& inode, const struct stat& st, const std::string& handle) const;
  Entry enter_known(NodeId id, Fd path, NodeId parent, const char* name, const struct stat& st,
                    const std::string& handle);
  // After the operation that took one of its names (in `account`) away.
  void name_gone(Victim victim, AccountId account, MeteredIo::Changes* changes);
  bool drop_name(Charge& charge, Inode* inode, AccountId account, MeteredIo::Changes* changes);
  void let_die(const InodePtr& inode);
  static void give_back(const Charge& charge, Bytes slack, MeteredIo::Changes* changes);
  void recount(const Inode& directory);
  void moves_again();
  // --- moving between accounts (tree_move.cpp) ---
  // A name of the inode went from account `from` to `child.account`; so did everything below a directory.
  void moved(Victim& victim, AccountId from, const Child& child, const char* name);
  bool lend_for_rename(AccountId account);
  void move_holder(Charge& charge, AccountId from, AccountId to, Bytes slack);
  void move_name(Victim& victim, AccountId from, const Child& child, const char* name);
  struct Left {
    Role role = Role::plain;
    AccountId account = 0;
  };
  std::optional<Left> renamed(Victim& victim, const Inode& from_parent, const Inode& to_parent,
                              const char* to_name);
  struct LimitMove {
    std::string from, to;
  };
  std::optional<LimitMove> limit_move(const Inode& parent, std::string_view name, const Inode& new_parent,
                                      std::string_view new_name, mode_t type) const;
  std::optional<LimitMove> limit_that_follows(const Replay& replay, const Inode& parent, const char* name,
                                              const Inode& new_parent, const char* new_name,
                                              const Victim& source, const Victim* exchanged,
                                              LimitGoes* goes) const;
  void make_durable(const Inode& directory) const;
  bool renamed_before(const Replay& replay, Inode& parent, const char* name, Inode& new_parent,
                      const char* new_name);
  // False where something could not be looked at.
  bool move_below(int dir, AccountId from, Role role, AccountId account);

  // --- scan (tree_scan.cpp) ---
  struct Links;
  std::optional<Bytes> bytes_below(int dir, const char* name, std::set<ino_t>& linked) const;
  Result<void> scan_directory(int dir, Role role, AccountId account, Links& links);
  Result<void> scan_entry(int dir, Role role, AccountId account, const std::string& name, Links& links);
  void adopt(NodeId id, int dir, const std::string& name, const struct stat& st);

  const Backing& backing_;
  Notes& notes_;
  Ledger& ledger_;
  InodeTable& table_;
  Accounts& accounts_;
  LimitStore& limits_;
  MeteredIo& io_;
  Settler& settler_;
  std::atomic<size_t> most_known_{
      SIZE_MAX};  // inodes that the kernel may know before it is made to forget some
  std::mutex kernel_mutex_;
  Kernel kernel_;  // guarded by kernel_mutex_, which is held while it is called
  // --- taking over (tree_takeover.cpp) ---
  InodePtr take_over_path(Fd path, uint64_t lookups, uint32_t account);
  Result<void> take_over_open(int fd);
  Result<Fd> open_made_before(Replay& replay, Entry& entry, int flags);
  std::vector<InodeTable::Doubtful>
      unknown_;  // that the kernel did not know when it was asked; of the settler's thread
  std::chrono::steady_clock::time_point ask_next_;
  std::mutex recount_mutex_;
  // What is below a directory and still charged to an old account.
  struct Move {
    Fd directory;
    AccountId from = 0;
    Child child;
  };
  // guarded by recount_mutex_
  std::vector<InodePtr> to_recount_;
  std::vector<Move> moves_to_do_;
  std::map<AccountId, Bytes> lent_for_renames_;
  std::mutex limit_files_mutex_;
  Bytes limit_files_bytes_;                       // guarded by limit_files_mutex_
  std::atomic<bool> limit_files_unknown_{false};  // could not be looked at: to be tried again
};

}  // namespace limaquota
