// The limit files on the disk: `.quota/<account>` in the backing tree, each replaced by rename(2) after
// fsync(2), so that a crash at any moment leaves the old text or the new one (P10).
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>
#include <string_view>

#include "accounting/mutex.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"

namespace limaquota {

// A limit file is named as the account it limits: "<vm>", "_disks/<name>", "_shared"; or "_default" (for VMs
// without a file) or "_host". Thread safety: reading is safe from any thread; what changes files is done
// under `mutex`, which is held over the system calls that make it durable.
class LimitFiles {
 public:
  explicit LimitFiles(const Backing& backing) : backing_(backing) {}

  Mutex mutex;

  // Calls `take` with each file that is there, and its text or why it cannot be read. What a crash left of
  // one that was being written is taken away.
  using Take = std::function<void(const std::string& name, const Result<std::string>& text)>;
  Result<void> read_all(const Take& take) const;

  struct Written {
    Result<void> durable;   // no error: it is
    bool in_place = false;  // the file holds the new text, whatever came after
  };
  Written write(std::string_view name, std::string_view text) REQUIRES(mutex);
  Result<void> remove(std::string_view name) REQUIRES(mutex);
  // False where it is there still.
  bool is_removed(std::string_view name) REQUIRES(mutex);
  // The file gets a second name; nothing where that cannot be.
  void add_name(std::string_view name, std::string_view second) REQUIRES(mutex);
  // The file gets another name. False where it has not that name alone.
  bool rename(std::string_view from, std::string_view to) REQUIRES(mutex);
  // Whether two names are those of one file.
  bool is_one_file(std::string_view a, std::string_view b) const;
  // How many names the file has; 0: there is none.
  nlink_t names_of(std::string_view name) const;

 private:
  // Where the file of a name lies.
  struct Place {
    Fd directory;
    std::string file;
  };
  enum class Missing : uint8_t { is_error, is_made };
  Result<Place> place_of(std::string_view name, Missing directories) const;
  Result<struct stat> stat_of(std::string_view name) const;
  Result<void> read_directory(int dir, const std::string& prefix, const Take& take) const;

  const Backing& backing_;
};

}  // namespace limaquota
