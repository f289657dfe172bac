// What an open file below `.usage` shows: the figures of one moment, for a reader who takes them in parts;
// also where the worker that made them dies meanwhile (fs/handover/notes.hpp).
#pragma once

#include <cstdint>
#include <string>

#include "fs/handover/notes.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// Not thread safe.
class KeptText {
 public:
  // In a memfd, which outlives this process; where there is no descriptor for it, in its memory alone.
  KeptText(uint64_t handle, std::string text, Notes& notes);
  // What the worker before had kept in this descriptor.
  KeptText(int descriptor, Notes& notes) : notes_(&notes), file_(descriptor) {}
  KeptText(KeptText&&) noexcept = default;
  KeptText& operator=(KeptText&& other) noexcept;
  ~KeptText() { drop(); }

  // The file handle that a descriptor from the worker before was kept for.
  static uint64_t handle_of(int descriptor, Notes& notes);
  // At most so many bytes from there on; fewer only at the end.
  std::string part(size_t size, uint64_t offset) const;

 private:
  void drop();

  Notes* notes_;
  Fd file_;
  std::string text_;  // where there is no file
};

}  // namespace limaquota
