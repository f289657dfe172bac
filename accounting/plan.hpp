// The arithmetic of `limaquota plan`: do new VMs fit on a host, beside what is already there?
// Pure functions and values; sums end at unlimited rather than overflow. Thread safe.
#pragma once

#include <span>
#include <string_view>

#include "accounting/bytes.hpp"
#include "accounting/profile.hpp"

namespace limaquota {

// A VM that is not made yet.
struct PlannedVm {
  Bytes virtual_size;  // its disk and its additional disks
  Bytes limit = Bytes::unlimited();
  Estimate peak;    // the most it occupies at a time
  Estimate steady;  // what stays when its work is done
  Bytes present;    // of the peak and the limit: what an additional disk occupies on the host already
  bool temporary = false;

  // What it may ever add to the host: min(limit, virtual size), without what is there already.
  Bytes worst_case() const;
};

struct HostRoom {
  Bytes free;
  Bytes reserve;  // what must stay free
  Bytes growth;   // what existing VMs may still grow by; what they occupy is no part of `free` any more
};

// plenty: the worst case leaves half of what is free, or more. tight, very_tight: the peaks leave less than
// 10 %, 2 % of it, or the worst case fits and leaves less than 10 %.
enum class Fit { plenty, fits, tight, very_tight, does_not_fit };
std::string_view to_string(Fit fit);

struct PlanAnswer {
  Bytes virtual_size, limit;  // sums over the VMs
  Estimate peak, steady;
  Estimate kept;          // steady, without the temporary VMs
  Bytes worst_case;       // of the new VMs alone
  Bytes needed;           // at the peaks: peaks, images and the host reserve
  Bytes left;             // free beyond `needed`
  Bytes missing;          // `needed` beyond free; 0 is what "fits" means
  Bytes needed_at_worst;  // worst case, growth of existing VMs, images and the host reserve
  Bytes overcommitted;    // `needed_at_worst` beyond free
  Fit fit = Fit::fits;
};

// `images`: what Lima downloads for them beside their disks.
PlanAnswer plan_for(std::span<const PlannedVm> vms, Bytes images, const HostRoom& room);

// What a ZFS mirror over files of this size holds before it is full. ZFS 2.1: labels and the boot area take
// 4.5 MiB of a file (vdev_label.c); the rest is cut into whole metaslabs (vdev_metaslab_set_size()); of them
// 1/32 is never given out, at least 128 MiB, but at most half (spa_get_slop_space()). Metadata, a few
// hundred KiB, is not counted. Right for files below 32 GiB; larger ones also give a metaslab to the log.
Bytes zfs_mirror_usable(Bytes file);
// A file size whose mirror holds `usable`: the smallest in steps of 1 MiB, or of 1/1024 where that is more;
// unlimited where 1 EiB would not do.
Bytes zfs_mirror_file_for(Bytes usable);

}  // namespace limaquota
