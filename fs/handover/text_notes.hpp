// Two texts in the memory that outlives a worker: what the files below `.quota` hold that is not in force,
// and the words of the mount.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace limaquota {

// Written by one thread at a time; what is read is one of the texts that were written, whole. Lies in shared
// memory that is zero at first.
class TextNote {
 public:
  // What is longer than 5 MiB is cut off.
  void write(std::string_view text);
  std::string read() const;

 private:
  static constexpr size_t most = size_t{5} << 20;
  std::atomic<uint32_t> now_;  // which of the two it is
  size_t bytes_[2];
  char texts_[2][most];
};

// Written once, before the first worker.
class WordsNote {
 public:
  // False where there is no room for them.
  bool write(const std::vector<std::string>& words);
  std::vector<std::string> read() const;

 private:
  static constexpr size_t most = size_t{64} << 10;
  size_t bytes_ = 0;
  char words_[most];  // each with a zero at its end
};

}  // namespace limaquota
