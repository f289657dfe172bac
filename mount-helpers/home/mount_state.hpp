// Asking a mount whose daemon may hang: stopped, out of memory, or waiting for a disk that is gone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "fs/system/fd.hpp"

namespace limaquota {

// A daemon that has not answered a reading of `.usage` for so long hangs: it waits for no disk there.
inline constexpr std::chrono::milliseconds daemon_deadline{5000};

// Reads a file by a process of its own. Who waits for a daemon that hangs cannot be killed, not even waited
// for; so that process can be left alone, and has nothing open that somebody else might wait for. Not thread
// safe, but there may be other threads.
class ReadApart {
 public:
  explicit ReadApart(const std::string& path);  // begins
  ~ReadApart();                                 // leaves alone what still waits
  ReadApart(const ReadApart&) = delete;
  ReadApart& operator=(const ReadApart&) = delete;

  // True once the file has been read, or cannot be. False where that was not so in time, or `keep_on`, which
  // is asked about twenty times a second, said no; it may be waited for again.
  bool wait(std::chrono::milliseconds time, const std::function<bool()>& keep_on = nullptr);
  // After that: its errno, 0 where it was read, and the text.
  int error() const { return error_; }
  const std::string& text() const { return text_; }

 private:
  void take();

  Fd answer_;
  pid_t child_ = -1;
  bool done_ = false;
  int error_ = 0;
  std::string text_;
};

enum class MountState { none, alive, dead, hung };
// Of the limaquota that is mounted at exactly this directory, a path without symlinks. Nothing of a tree
// whose daemon hangs may be touched.
MountState mount_state(const std::string& directory, std::chrono::milliseconds deadline = daemon_deadline);
// "the daemon of ... does not answer: ...", and what to do.
std::string hung_text(const std::string& home);
// Throws Refusal where the daemon of the mount at this directory hangs.
void refuse_hung(const std::string& directory);

}  // namespace limaquota
