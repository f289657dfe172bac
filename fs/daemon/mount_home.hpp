// The way in: mounts limaquota over a Lima home and serves it. mount-helpers/ calls this, survey_home.hpp
// for a home that is not mounted, and looks at mounts by preflight.hpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace limaquota {

class Backing;
class DataPath;
class Sys;
struct Notes;

struct MountOptions {
  std::string source;      // the Lima home whose files are shown
  std::string mountpoint;  // where; the same directory: it is covered in place
  bool foreground =
      false;  // stay in front and log to stderr; else return when the mount answers, log to syslog
  bool allow_other = false;
  bool refuse_with_edquot = false;  // EDQUOT instead of ENOSPC for what is beyond the budget
  bool io_uring = false;            // requests by FUSE over io_uring, see fs/serving/uring.hpp
  // The other mount options, as mount(8) spells them: ro, rw, dev, nodev, suid, nosuid, exec, noexec, atime,
  // noatime, sync, dirsync, async, default_permissions (always on). Anything else is refused with a clear
  // line.
  std::vector<std::string> flags;
  // Called once when the mount answers.
  std::function<void()> ready;
};

// Mounts and, in the foreground, serves until unmounted. Returns the exit status: 0 done, 1 refused or failed
// (one line on stderr: what, where, what to do next).
int mount_home(const MountOptions& options);
// What tests and benchmarks put in the place of the daemon's own parts.
struct Seams {
  // The system calls on the backing tree, made at the start of each worker, whose notes outlive them.
  std::function<std::unique_ptr<Sys>(const Notes& notes)> make_sys;
  // Where the data of files go; empty: they are metered.
  std::function<std::unique_ptr<DataPath>(const Backing& backing)> make_data_path;
};
int mount_home(const MountOptions& options, const Seams& seams);
// Goes on serving a mount that another program served in this process, by the descriptor of its notes: what
// fs/daemon/upgrade.hpp has executed. As mount_home in the foreground.
int take_over_home(int notes);
int take_over_home(int notes, const Seams& seams);

}  // namespace limaquota
