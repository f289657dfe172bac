// What takes a limit along: a VM or a disk that is renamed keeps its limit, whether Lima renames the
// directory or moves lima.yaml to a new one. How the limit's file follows, crash by crash:
// fs/limits/limit_follows.hpp.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "accounting/ledger.hpp"
#include "fs/handover/intent.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/metering/inode.hpp"

namespace limaquota {

// A name in a directory, and the type (S_IFMT) of what stands or is to stand there; 0: nothing.
struct Place {
  const Inode& directory;
  const char* name;
  mode_t type = 0;
};

// The accounts between which a limit goes, and which way that is.
struct LimitMove {
  std::string from, to;
  LimitGoes goes = LimitGoes::nowhere;
};

// Thread safety: all functions may be called from any thread.
class LimitAlong {
 public:
  LimitAlong(const Ledger& ledger, const LimitStore& limits) : ledger_(ledger), limits_(limits) {}

  // Of two that are exchanged the one that has a limit gives it to the other's name; where both have one,
  // each stays with its name. `before`: what was noted of this very rename by a worker that died, which may
  // have left the limit under both names.
  enum class Kind : uint8_t { move, exchange };
  std::optional<LimitMove> of_rename(const Place& from, const Place& to, Kind kind,
                                     const std::optional<RenamesInode>& before) const;
  // Of a rename that was carried out before, by what was noted of it. `from` and `to` have the types of what
  // was moved there.
  std::optional<LimitMove> of_renamed(const Place& from, const Place& to, LimitGoes goes) const;

 private:
  std::optional<LimitMove> move(const Place& from, const Place& to, LimitGoes goes) const;

  const Ledger& ledger_;
  const LimitStore& limits_;
};

}  // namespace limaquota
