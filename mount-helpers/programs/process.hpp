// Runs other programs: limactl, qemu-img, fusermount3, systemctl, notify-send...
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace limaquota {

// How a program ended and what it wrote.
struct Ended {
  int status = 0;  // its exit status, or 128 + the signal that ended it; 127: there is no such program
  bool timed_out = false;  // ended by us: its deadline was over, or keep_on said so
  std::string out;
  std::string err;

  bool ok() const { return status == 0; }
  // The first line of what it complained of, for a message; "status 3" where it said nothing.
  std::string complaint() const;
};

struct RunOptions {
  std::string input;                     // its standard input; then end of file
  std::vector<std::string> environment;  // "NAME=VALUE", added to ours
  std::optional<std::chrono::milliseconds>
      deadline;       // then SIGTERM, and SIGKILL 2 s later, to its process group
  bool show = false;  // its output goes where ours goes, rather than into `out` and `err`
  // Called with each piece of standard output as it comes; `out` holds all of it none the less.
  std::function<void(std::string_view)> on_output;
  // Asked about twenty times a second while it runs; false ends it as its deadline would.
  std::function<bool()> keep_on;
};

// Runs a program, words[0] looked up in PATH, in a process group of its own, and waits for its end. Never
// throws for what the program does; std::system_error where no process can be made. Thread safe.
Ended run_program(const std::vector<std::string>& words, const RunOptions& options = {});
// Where the program is in PATH; nothing where it is not.
std::optional<std::filesystem::path> find_program(const std::string& name);

}  // namespace limaquota
