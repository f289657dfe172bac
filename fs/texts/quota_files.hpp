// What happens to the files below `.quota`: limit files, which are parsed when they are written, and scratch
// files, which editors need and which live in memory until the unmount.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "accounting/result.hpp"
#include "fs/backing/backing.hpp"
#include "fs/handover/notes.hpp"
#include "fs/limits/limit_store.hpp"

namespace limaquota {

// Paths are relative to `.quota`. A limit file that is open for writing has a text of its own, which is in
// force as soon as it is whole: with a final newline, or a lone size; else from close. Thread safety: all
// functions may be called from any thread.
class QuotaFiles {
 public:
  // Goes on with the texts that a worker before kept (fs/handover/notes.hpp).
  QuotaFiles(const Backing& backing, LimitStore& store, Notes& notes);

  static bool is_directory(std::string_view path) { return path.empty() || path == disks_directory; }
  bool is_file(std::string_view path) const;
  std::vector<std::string> names(std::string_view directory) const;
  std::string text(std::string_view path) const;
  // Times and blocks of the file in the backing tree, where there is one.
  std::optional<struct stat> backing_stat(std::string_view path) const;

  Result<void> create(std::string_view path);
  // `handle` stands for what is opened, until it is closed.
  void open_for_writing(std::string_view path, uint64_t handle);
  Result<void> set_size(std::string_view path, uint64_t size);
  // `owner` stands for the process that writes, or closes.
  Result<size_t> write(std::string_view path, std::string_view data, uint64_t offset, uint64_t owner);
  // At each close of a descriptor that was open for writing: the text counts where it is the writer's own,
  // not that of another process that inherited it. And after the last close.
  Result<void> flush(std::string_view path, uint64_t owner);
  void closed(std::string_view path, uint64_t handle);
  Result<void> remove(std::string_view path);
  // `flags` as of renameat2(2).
  Result<void> rename(std::string_view from, std::string_view to, unsigned flags);
  // A scratch file of that name becomes its limit file, if its text is one: limits may be written before the
  // VM exists.
  void promote(std::string_view account);

 private:
  struct Editing {
    std::string text;            // what the file holds for those who have it open
    bool pending = false;        // it holds something that is not in force
    uint64_t owner = 0;          // who wrote last
    std::set<uint64_t> writers;  // handles
  };
  // Scratch files together.
  static constexpr size_t most_scratch_bytes = size_t{4} << 20;
  static constexpr size_t most_scratch_files = 64;
  static constexpr size_t largest_limit_text = 4096;

  void keep() const REQUIRES(mutex_);  // what it holds, for the next worker
  void take_over();                    // what the worker before kept
  Result<void> put_pending(std::string_view path, Editing& editing) REQUIRES(mutex_);
  std::string current(std::string_view path) const REQUIRES(mutex_);
  bool exists(std::string_view path) const REQUIRES(mutex_);
  static bool whole(std::string_view text) { return text.ends_with('\n') || is_lone_size(text); }

  // Keeps what a function changed when it ends: made after the lock of mutex_.
  class Keeping;

  const Backing& backing_;
  LimitStore& store_;
  Notes& notes_;
  mutable Mutex mutex_;
  std::map<std::string, Editing, std::less<>> editing_ GUARDED_BY(mutex_);
  std::map<std::string, std::string, std::less<>> scratch_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
