// Getting VMs going that QEMU paused because a disk write met ENOSPC.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "accounting/json_fwd.hpp"
#include "mount-helpers/guest/qmp.hpp"
#include "mount-helpers/home/lima_vms.hpp"

namespace limaquota {

// False where the account can take no further block, so that a guest that goes on pauses at once. True where
// there is no such account.
bool has_room(const AccountFigures* account);
// Why there is no room, and what to do: "its limit of 15 GiB is used up: raise it (...)".
std::string why_no_room(const AccountFigures& account, const HostFigures& host);

struct Resumption {
  LimaVm vm;
  GuestAnswer answer;

  bool is_resumed() const { return answer.continued && !answer.paused_again; }
};

// Asks all of them at once and lets those go on that are paused for space and have room. Takes at most the
// deadline, however many do not answer. Thread safe.
std::vector<Resumption> resume_vms(const std::vector<LimaVm>& vms, const Snapshot& snapshot,
                                   std::chrono::milliseconds deadline = qmp_deadline);
// What became of it, for people, without the VM's name: "resumed", "not resumed: ...".
std::string text_of(const Resumption& resumption, const Snapshot& snapshot);
// An array of {"name","found","resumed","text"}; names are escaped.
Json json_of(const std::vector<Resumption>& resumptions, const Snapshot& snapshot);

}  // namespace limaquota
