// Upgrading a live mount: the daemon goes on as another binary, in the same process, while programs wait.
//
// Whoever asks sends SIGUSR1 to the supervisor. That tries the asker's own binary, or, where it is another
// user's process, what lies where its own came from: it has to print the layout of its notes. Then the worker
// is ended, as a crash would, and the supervisor executes the binary with the descriptors of its mount and
// its notes (fs/handover/notes.hpp). A binary whose worker does not come to serve, and goes on for a while,
// is given up for the one before.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/handover/notes.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// The command that a supervisor executes: `limaquota __take-over NOTES`, and to try it `... NOTES --try`.
inline constexpr char take_over_command[] = "__take-over";
inline constexpr char try_option[] = "--try";

// --- in the supervisor ---
// The binary that `asker` runs, if it can take over; why not, in a line of the log, else.
std::optional<Fd> binary_of(pid_t asker, const Notes& notes);
// This process becomes that binary. Returns only where it cannot.
void become(int binary, const Notes& notes);

// What becomes of all descriptors but the standard streams in a program that is executed.
enum class OnExec : uint8_t { stay_open, are_closed };
Result<void> set_on_exec(OnExec descriptors);

// --- in the binary that is to take over ---
// Where `notes` can be taken over: prints what binary_of wants to read. The exit status.
int try_notes(int notes);

// --- for whoever asks ---
struct Daemon {
  pid_t supervisor = 0;
  Fd process;  // its directory in /proc, which never stands for another
  struct stat notes_file {};
  std::string mountpoint;
  const Notes* notes = nullptr;  // null where this program cannot take over from that one
};
// The daemons that this user may see.
std::vector<Daemon> daemons();
enum class Upgraded { done, refused, failed, silent };
// Asks the daemon to go on as the binary of this process, and waits; at most two minutes. `waiting` is called
// several times a second.
Upgraded upgrade(const Daemon& daemon, const std::function<void()>& waiting);

}  // namespace limaquota
