#include "fs/system/caller.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "fs/system/mountinfo.hpp"

namespace limaquota {
namespace {

// Threads of one process share their ids as far as libc goes; the kernel keeps them for each thread. So the
// raw system calls are used, which change the calling thread only.
bool is_root() {
  static const bool root = ::geteuid() == 0;
  return root;
}

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};

  bool get() { return ::syscall(SYS_capget, &header, data) == 0; }
  void set() { ::syscall(SYS_capset, &header, data); }
  void keep_only(uint64_t kept) {
    for (unsigned word = 0; word < 2; ++word) {
      const auto mask = static_cast<uint32_t>(kept >> (32 * word));
      data[word].permitted &= mask;
      data[word].effective &= mask;
      data[word].inheritable = 0;
    }
  }
  void effective(unsigned capability, bool on) {
    const uint32_t bit = uint32_t{1} << (capability % 32);
    uint32_t& word = data[capability / 32].effective;
    word = on ? (word | bit) : (word & ~bit);
  }
};

void set_fsetid(bool on) {
  // Nobody else changes them, but for the kernel, which drops some while the thread is another user.
  thread_local Capabilities capabilities;
  thread_local const bool known = capabilities.get();
  if (!known) return;
  capabilities.effective(CAP_FSETID, on);
  capabilities.effective(CAP_SYS_RESOURCE, false);
  capabilities.set();
}

void set_groups(const std::vector<gid_t>& groups) { ::syscall(SYS_setgroups, groups.size(), groups.data()); }

// The groups of the calling thread, from its status file: FUSE hands on only one.
std::vector<gid_t> groups_of(pid_t pid) {
  std::vector<gid_t> groups;
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/status", pid);
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return groups;
  char line[65536];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, "Groups:", 7) != 0) continue;
    char* at = line + 7;
    for (;;) {
      char* end = nullptr;
      const unsigned long group = std::strtoul(at, &end, 10);
      if (end == at) break;
      groups.push_back(static_cast<gid_t>(group));
      at = end;
    }
    break;
  }
  std::fclose(file);
  return groups;
}

}  // namespace

bool in_group(const Caller& caller, gid_t group) {
  if (caller.gid == group) return true;
  const std::vector<gid_t> groups = groups_of(caller.pid);
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

void drop_privileges() {
  // Nothing that is executed from here on gets any more than this process has: no set-id program helps it.
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (!is_root()) return;
  std::vector<unsigned> needed{
      CAP_CHOWN,    CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,  CAP_FSETID,  // files of all users
      CAP_SETUID,   CAP_SETGID,       CAP_MKNOD,           CAP_SETFCAP,  // made as their callers would
      CAP_SYS_ADMIN};                                                    // attributes `trusted.*`
  // Else the groups of a caller could not be seen.
  const auto proc = mount_of("/proc");
  if (proc && proc->super_options.find("hidepid=") != std::string::npos) needed.push_back(CAP_SYS_PTRACE);
  uint64_t kept = 0;
  for (const unsigned capability : needed) kept |= uint64_t{1} << capability;
  for (unsigned capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if ((kept >> capability & 1) == 0) ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  Capabilities capabilities;
  if (!capabilities.get()) return;
  capabilities.keep_only(kept);
  capabilities.set();
}

void prepare_thread() {
  ::unshare(CLONE_FS);
  if (is_root()) set_fsetid(false);
}

AsCaller::AsCaller(const Caller& caller) {
  ::umask(caller.umask);
  if (!is_root() || (caller.uid == 0 && caller.gid == 0)) return;
  switched_ = true;
  set_groups(groups_of(caller.pid));
  ::setfsgid(caller.gid);
  ::setfsuid(caller.uid);
}

AsCaller::~AsCaller() {
  ::umask(0);
  if (!switched_) return;
  ::setfsuid(0);
  ::setfsgid(0);
  set_groups({});
  // Back at fsuid 0 the kernel raises what it dropped, CAP_FSETID among it.
  set_fsetid(false);
}

namespace {
thread_local int keepers = 0;  // of the capability; only the outermost lowers it
}  // namespace

KeepSetId::KeepSetId(bool keep) : raised_(keep && is_root()) {
  if (raised_ && keepers++ == 0) set_fsetid(true);
}

KeepSetId::~KeepSetId() {
  if (raised_ && --keepers == 0) set_fsetid(false);
}

}  // namespace limaquota
