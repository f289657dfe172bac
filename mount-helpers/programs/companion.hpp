// A program that works beside this one and ends with it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/system/fd.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {

// Runs in a process group of its own. When this process dies, however, the program gets SIGTERM (the kernel's
// parent death signal, prctl(2)): qemu-storage-daemon then closes its images in order. Its input is empty,
// its output is kept. Not thread safe; made by the thread that lives longest, since the death of that one
// counts.
class Companion {
 public:
  // words[0] is looked up in PATH; `keep` are descriptors that it inherits, locks with them; `environment` is
  // "NAME=VALUE", added to ours. Throws Refusal where it cannot be started.
  explicit Companion(const std::vector<std::string>& words, const std::vector<int>& keep = {},
                     const std::vector<std::string>& environment = {});
  ~Companion();
  Companion(const Companion&) = delete;
  Companion& operator=(const Companion&) = delete;

  pid_t group() const { return pid_; }
  // Waits at most so long; true while it runs.
  bool runs(std::chrono::milliseconds patience = {});
  // What it wrote to standard output since the last call.
  std::string new_output();
  // SIGTERM to its process group, after ten seconds SIGKILL; waits for its end.
  void end();
  // Waits for its end, `look` called now and then, and says how it ended.
  Ended wait(const std::function<void()>& look = {});

 private:
  pid_t pid_ = -1;
  bool gone_ = false;
  int status_ = 0;
  off_t read_ = 0;
  Fd out_, err_;
};

}  // namespace limaquota
