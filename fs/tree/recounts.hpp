// Recounts: where a new entry could not be looked at (no descriptor was left, as a rule), its directory is
// listed again later, and what is there is charged.
#pragma once

#include <vector>

#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/entries.hpp"
#include "fs/tree/inode_end.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class Recounts {
 public:
  Recounts(const Backing& backing, const InodeTable& table, Entries& entries, InodeEnd& ends)
      : backing_(backing), table_(table), entries_(entries), ends_(ends) {}

  void add(const Inode& directory);
  void go_on();

 private:
  // False where something could not be looked at again.
  bool recount(Inode& directory);

  const Backing& backing_;
  const InodeTable& table_;
  Entries& entries_;
  InodeEnd& ends_;
  Mutex mutex_;
  std::vector<InodePtr> directories_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
