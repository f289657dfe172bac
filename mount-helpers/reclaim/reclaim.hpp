// `limaquota reclaim`: what its ways of getting space back have in common.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "accounting/figures.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"

namespace limaquota {

struct ReclaimRequest {
  std::string home;  // without symlinks, mounted
  LimaVm vm;
  bool dry_run = false;
  bool compress = false;
  bool clean = false;
  bool yes = false;                    // asks nothing
  std::vector<std::string> paths;      // directories of the guest that are deleted
  Bytes loan;                          // to a paused guest, each time
  std::chrono::seconds deadline{600};  // for each program in the guest
};

struct DiskReclaimed {
  std::string name;  // path below the home
  std::string format;
  Bytes allocated_before, allocated_after;  // the same in a dry run
  uint64_t zero_bytes = 0;                  // found, or given back
  uint64_t free_bytes = 0;
};

struct Reclaimed {
  std::string way;                // "fstrim", "punch", "compress"
  Bytes used_before, used_after;  // of the account, by .usage; the same in a dry run
  Bytes would_free;               // in a dry run
  std::vector<DiskReclaimed> disks;
  std::vector<std::string> notes;  // for people, a line each; escaped
};

// Each does all of the work and throws Refusal where it cannot, the disks then whole. `progress` lines go to
// standard error.
Reclaimed reclaim_online(const ReclaimRequest& request);   // a running VM
Reclaimed reclaim_offline(const ReclaimRequest& request);  // a stopped one; then compresses, where asked

// The account's figures now. Throws Refusal.
AccountFigures vm_figures(const ReclaimRequest& request);
Bytes allocated_bytes(const std::filesystem::path& file);  // 0 where there is none

}  // namespace limaquota
