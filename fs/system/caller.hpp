// Whose request it is. As root with allow_other, what a request makes must belong to its caller.
#pragma once

#include <sys/types.h>

namespace limaquota {

struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t pid = 0;
  mode_t umask = 0;
};

// Whether the caller belongs to the group: by its own id, or one of its others.
bool in_group(const Caller& caller, gid_t group);

// The thread, and those that it starts, keep no privilege that mounting and serving do not need, and get none
// by executing a program: an ordinary user mounts by one beforehand. As root, of the capabilities, those for
// files and for mounting.
void drop_privileges();

// Called once in every thread that serves: gives the thread an umask of its own and, as root, drops the
// capabilities that would let it use root's reserve of the filesystem (CAP_SYS_RESOURCE) or keep set-id bits
// that a write must clear (CAP_FSETID).
void prepare_thread();

// While it lives, the thread makes files as the caller would: its fsuid, fsgid, groups and umask. Access was
// checked by the kernel already. Does nothing but the umask where the daemon is not root.
class AsCaller {
 public:
  explicit AsCaller(const Caller& caller);
  AsCaller(const AsCaller&) = delete;
  AsCaller& operator=(const AsCaller&) = delete;
  ~AsCaller();

 private:
  bool switched_ = false;
};

// While it lives, the thread has CAP_FSETID, so that the backing filesystem keeps set-id bits: for a caller
// who has it. Does nothing where `keep` is false or the daemon is not root.
class KeepSetId {
 public:
  explicit KeepSetId(bool keep);
  KeepSetId(const KeepSetId&) = delete;
  KeepSetId& operator=(const KeepSetId&) = delete;
  ~KeepSetId();

 private:
  bool raised_ = false;
};

}  // namespace limaquota
