// What stands at a name, looked at before an operation that may take it away or move it.
#pragma once

#include <sys/stat.h>

#include <string>

#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_table.hpp"
#include "fs/tree/charges.hpp"

namespace limaquota {

struct Standing {
  NodeId id = 0;  // 0: nothing stands there
  Fd path;        // O_PATH
  struct stat st {};

  bool is_directory() const { return S_ISDIR(st.st_mode); }
  // `handle` may stay empty for one that has its charge.
  Charges::Found found(std::string handle = {}) const { return {id, path.get(), st, std::move(handle)}; }
};

// ENOENT where there is nothing. `dir` is a descriptor of the directory, O_PATH or not.
Result<Standing> look_at(const Backing& backing, InodeTable& table, int dir, const char* name);

}  // namespace limaquota
