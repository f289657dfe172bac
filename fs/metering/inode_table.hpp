// The inode table: every inode that the kernel knows, and the charge of every inode of the tree.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "accounting/mutex.hpp"
#include "fs/handover/notes.hpp"
#include "fs/metering/inode.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread; the mutex inside is never held over a system
// call.
class InodeTable {
 public:
  explicit InodeTable(Notes& notes) : notes_(notes) {}

  // The id for a backing inode. One id per (device, inode number).
  NodeId id_of(dev_t device, ino_t inode);
  void set_root(dev_t device, ino_t inode);

  InodePtr find(NodeId id) const;
  // Counts one more lookup of the inode, as `name` in `parent`; it is made from `o_path` when the kernel does
  // not know it yet.
  InodePtr enter(NodeId id, Fd&& o_path, NodeId parent, const char* name,
                 const std::function<void(Inode&)>& fill);
  // One that the kernel has known since before this worker, with what it had of lookups; it may be known
  // again.
  InodePtr take_over(NodeId id, Fd&& o_path, uint64_t lookups, const std::function<void(Inode&)>& fill);
  // The inode is about to lose its last name: where it is charged must be known to the next worker.
  void note_account(const Inode& inode, const std::string& account);
  // Inodes that were taken over and of which the kernel may know less than is counted: a kill came between.
  // Taken off the list with their lookups.
  struct Doubtful {
    NodeId id = 0;
    uint64_t lookups = 0;
  };
  std::vector<Doubtful> doubtful();
  uint64_t lookups(NodeId id) const;  // 0 where it is not known
  // Closes the descriptor of an inode that stays in the table, dead.
  void close_path(Inode& inode);
  // The same by its id alone; null where it is not known.
  InodePtr enter_again(NodeId id);
  // Each inode that the kernel knows costs a descriptor. Where there are more than `most`, names of files
  // that nobody has open, for the kernel to forget.
  struct Known {
    NodeId parent = 0;
    std::string name;
  };
  std::vector<Known> too_many(size_t most) const;
  size_t known() const { return known_; }
  // The kernel forgets `count` lookups (0: it is off the settle list, or closed). Returns the inode when
  // nobody needs it any more (the kernel, an open file, the settle list): it is out of the table then.
  InodePtr forget(NodeId id, uint64_t count);

  // Puts a charge in; false where there is one already.
  bool add_charge(NodeId id, Charge&& charge);
  bool has_charge(NodeId id) const;
  // Calls `change(Charge&, Inode*)` with the charge of an inode, guarded as it has to be: under the mutex of
  // its Inode where there is one, else under the table's (`inode` is null then, and stays so meanwhile). The
  // caller holds neither. `change` makes no system call, takes no lock but the ledger's, and says whether the
  // charge is still needed; only without an Inode may it go. False where there is no charge.
  enum class Keep : uint8_t { yes, no };
  template <class Change>
  bool with_charge(NodeId id, Change change);
  // The charge of an inode that somebody may still ask for it; it is dead from then on.
  void drop_charge(Inode& inode) REQUIRES(inode.mutex);
  // Takes out the charge of an inode that was removed behind the mount's back, where an inode of another file
  // handle has its number now.
  std::optional<Charge> take_stale_charge(NodeId id, const std::string& handle);
  // The file handle in the charge of an inode; empty where there is none.
  std::string handle_of(NodeId id) const;
  size_t charges() const;

  // Inodes without names that nobody has open, but that the kernel has yet to let go: their blocks come back
  // at once, as a rule.
  void mark_dying(Inode& inode) REQUIRES(inode.mutex);
  void unmark_dying(Inode& inode) REQUIRES(inode.mutex);
  // True where waiting a little may bring blocks back.
  bool some_dying() const;

 private:
  // An inode that the kernel knows, is on the settle list, or open.
  struct Row {
    InodePtr inode;
    uint64_t lookups = 0;
    bool taken_over = false;  // from a worker that died
    NodeId parent = 0;        // where the kernel looked it up last
    std::string name;
  };
  // For the next worker: which inode the descriptor stands for it sees itself.
  void note_lookups(const Row& row) REQUIRES(mutex_);
  void note_end(const Inode& inode) REQUIRES(mutex_);
  uint64_t index_of(dev_t device) REQUIRES(mutex_);

  Notes& notes_;
  mutable Mutex mutex_;
  dev_t root_device_ GUARDED_BY(mutex_) = 0;
  ino_t root_inode_ GUARDED_BY(mutex_) = 0;
  std::unordered_map<dev_t, uint64_t> device_index_ GUARDED_BY(mutex_);
  std::unordered_map<NodeId, Row> inodes_ GUARDED_BY(mutex_);
  std::vector<NodeId> doubtful_ GUARDED_BY(mutex_);
  // Each charge itself: see with_charge.
  std::unordered_map<NodeId, Charge> charges_ GUARDED_BY(mutex_);

  std::atomic<size_t> known_{0};  // inodes_.size()
  std::atomic<int> dying_{0};
  std::atomic<int64_t> last_death_{0};  // nanoseconds of the steady clock
};

// The analysis does not know that no inode has no mutex.
template <class Change>
bool InodeTable::with_charge(NodeId id, Change change) UNCHECKED_LOCKS {
  for (;;) {
    InodePtr inode;
    {
      const MutexLock lock(mutex_);
      const auto found = charges_.find(id);
      if (found == charges_.end()) return false;
      const auto known = inodes_.find(id);
      if (known == inodes_.end() || known->second.inode->dead) {
        if (change(found->second, static_cast<Inode*>(nullptr)) == Keep::no) charges_.erase(found);
        return true;
      }
      inode = known->second.inode;
    }
    const MutexLock lock(inode->mutex);
    if (inode->dead) continue;  // died meanwhile: its number may have another charge
    (void)change(inode->charge, inode.get());
    return true;
  }
}

}  // namespace limaquota
