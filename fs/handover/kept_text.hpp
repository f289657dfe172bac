// What an open file below `.usage` shows: the figures of one moment, for a reader who takes them in parts;
// also where the worker that made them dies meanwhile (fs/handover/notes.hpp).
#pragma once

#include <cstdint>
#include <string>

#include "fs/system/fd.hpp"

namespace limaquota {

// Not thread safe.
class KeptText {
 public:
  // In a memfd, which outlives this process; where there is no descriptor for it, in its memory alone.
  KeptText(uint64_t handle, std::string text);
  // What the worker before had kept in this descriptor.
  explicit KeptText(int descriptor) : file_(descriptor) {}
  KeptText(KeptText&&) noexcept = default;
  KeptText& operator=(KeptText&& other) noexcept;
  ~KeptText() { drop(); }

  // The file handle that a descriptor from the worker before was kept for.
  static uint64_t handle_of(int descriptor);
  // At most so many bytes from there on; fewer only at the end.
  std::string part(size_t size, uint64_t offset) const;

 private:
  void drop();

  Fd file_;
  std::string text_;  // where there is no file
};

}  // namespace limaquota
