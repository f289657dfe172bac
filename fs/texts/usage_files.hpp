// What the files below `.usage` say.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "accounting/layout.hpp"
#include "accounting/ledger.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"

namespace limaquota {

// Paths are relative to `.usage`. Every text is made from one snapshot of the ledger; nothing waits for the
// disk. Thread safety: all functions may be called from any thread.
class UsageFiles {
 public:
  // `home`: the absolute path of the mount point, by which the metrics name this Lima home.
  UsageFiles(const Backing& backing, const Ledger& ledger, const Notes& notes, std::string home)
      : backing_(backing), ledger_(ledger), notes_(notes), home_(std::move(home)) {}

  static bool is_directory(std::string_view path) { return path.empty() || path == disks_directory; }
  bool is_file(std::string_view path) const;
  std::vector<std::string> names(std::string_view directory) const;
  // The text of a file; nothing where there is none.
  std::optional<std::string> text(std::string_view path) const;

 private:
  const Backing& backing_;
  const Ledger& ledger_;
  const Notes& notes_;
  const std::string home_;
};

}  // namespace limaquota
