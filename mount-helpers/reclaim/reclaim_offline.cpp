// reclaim --offline: on a stopped VM's disks, in place, without a second copy.
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/reclaim/compress.hpp"
#include "mount-helpers/reclaim/free_space.hpp"
#include "mount-helpers/reclaim/image.hpp"
#include "mount-helpers/reclaim/leftovers.hpp"
#include "mount-helpers/reclaim/ranges.hpp"
#include "mount-helpers/reclaim/reclaim.hpp"
#include "mount-helpers/reclaim/scan.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

// What the guest writes: `disk` or, of older Limas, `diffdisk`, and the attached disks. The images that these
// are made from stay as they are. Symlinks inside the home are followed.
std::vector<fs::path> disks_of(const ReclaimRequest& request, const AccountFigures& account) {
  std::vector<fs::path> disks;
  for (const char* name : {"disk", "diffdisk"}) {
    if (!disks.empty() || !fs::exists(request.vm.directory / name)) continue;
    disks.push_back(real_path((request.vm.directory / name).string()));
  }
  for (const DiskFigures& disk : account.disks) {
    if (disk_of_account(disk.name)) {
      disks.push_back(real_path(request.home + "/" + disk.name));
    }
  }
  for (const fs::path& disk : disks) {
    if (!disk.string().starts_with(request.home + "/") || !fs::is_regular_file(disk)) {
      throw Refusal(
          fmt::format("{} is no file inside {}", escape_name(disk.string()), escape_name(request.home)));
    }
  }
  if (disks.empty()) throw Refusal(fmt::format("{} has no disk yet", escape_name(request.vm.name)));
  return disks;
}

// What a pass over a disk found, or did.
struct Pass {
  Bytes freed;                  // by its own count
  std::vector<ByteRange> kept;  // of the disk's data
};

// One pass over an open disk; in a dry run nothing is punched. `occupied`: by what its guest sees.
Pass punch_disk(const ReclaimRequest& request, OpenDisk& disk, Bytes occupied, DiskReclaimed& result,
                std::vector<std::string>& notes) {
  const auto [data, zeros] = disk.layout();
  const FreeSpace space = free_space_of(disk);
  for (const std::string& note : space.notes) notes.push_back(result.name + ": " + note);
  const std::string title = fmt::format("{} {}", request.dry_run ? "scan" : "reclaim", result.name);
  std::vector<ByteRange> punched;
  const auto punch = [&](ByteRange range) {
    append_range(punched, range);
    if (!request.dry_run) disk.punch(range);
  };
  const Bytes data_bytes(total_length(data));
  {
    Progress progress(title, data_bytes);
    const Found found = scan_disk(disk, data, space.ranges, punch, [&](Bytes done) { progress.show(done); });
    result.zero_bytes = found.zero;
    result.free_bytes = found.free;
  }
  const uint64_t size = disk.size().count();
  Pass pass{.freed = Bytes(total_length(intersection(punched, data))),
            .kept = intersection(data, holes_between(punched, size))};
  const Bytes beyond_data = minus_or_zero(occupied, data_bytes);
  if (beyond_data < Bytes(disk.granule())) return pass;
  result.zero_bytes += beyond_data.count();
  pass.freed += beyond_data;
  if (request.dry_run) return pass;
  Progress progress(title + ": zeros", Bytes(total_length(zeros)));
  Bytes done;
  for (const ByteRange range : zeros) {
    disk.punch(range);
    progress.show(done += Bytes(range.length));
  }
  return pass;
}

// What compressing would win beyond the pass, by a sample.
Bytes compress_gain(const DiskLock& lock, OpenDisk& disk, const Pass& pass, const Image& image,
                    const DiskReclaimed& result, std::vector<std::string>& notes) {
  const Bytes kept(total_length(pass.kept));
  if (kept.count() == 0) return Bytes(0);
  const CompressedSample sample = sample_compression(disk, pass.kept, image);
  const double share =
      static_cast<double>(sample.compressed.count()) / static_cast<double>(sample.plain.count());
  const Bytes becomes(static_cast<uint64_t>(share * static_cast<double>(kept.count())));
  notes.push_back(
      fmt::format("{}: compressing: about {} would become about {}, as a sample of {} became {}; it takes at "
                  "most {} of room "
                  "beside the old file",
                  result.name, format_size(kept), format_size(becomes), format_size(sample.plain),
                  format_size(sample.compressed), format_size(room_to_compress(lock, image))));
  return minus_or_zero(minus_or_zero(result.allocated_before, pass.freed), becomes);
}

void reclaim_disk(const ReclaimRequest& request, const fs::path& path, Reclaimed& all) {
  refuse_backing_file(request.home, path);
  const DiskLock lock(path);
  for (const Leftover& left : leftovers_beside(path)) {  // the lock says that no run is at work
    if (!request.dry_run) {
      ::unlink(left.file.c_str());
      continue;
    }
    all.would_free += left.allocated;
    all.notes.push_back(fmt::format("{}: left behind by --compress, {}: would be removed",
                                    escape_name(left.file.string().substr(request.home.size() + 1)),
                                    format_size(left.allocated)));
  }
  const Image image = examine_image(lock);
  const bool raw = image.format == "raw";
  DiskReclaimed result{.name = escape_name(path.string().substr(request.home.size() + 1)),
                       .format = image.format,
                       .allocated_before = allocated_bytes(path),
                       .allocated_after = Bytes(0)};
  Bytes occupied = result.allocated_before;
  if (!raw) occupied = check_image(lock, path, image, "before", !request.dry_run);
  lock.refuse_others();  // again: the check may have taken minutes
  {
    const auto disk =
        raw ? open_raw_disk(lock)
            : open_qcow2_disk(lock, image.cluster, request.dry_run ? Export::read_only : Export::writable);
    const Pass pass = punch_disk(request, *disk, occupied, result, all.notes);
    if (!request.dry_run) {
      disk->finish();
    } else {
      Bytes freed = std::min(pass.freed, result.allocated_before);
      if (request.compress && !raw) freed += compress_gain(lock, *disk, pass, image, result, all.notes);
      all.would_free += freed;
    }
  }
  if (!raw && !request.dry_run) check_image(lock, path, image, "after", false);
  if (request.compress && raw) {
    all.notes.push_back(result.name + ": raw, not compressed: only a qcow2 can be");
  } else if (request.compress && !request.dry_run && !compress_image(request, lock, image)) {
    all.notes.push_back(result.name + ": does not become smaller by compressing; left as it was");
  }
  result.allocated_after = allocated_bytes(path);
  all.disks.push_back(std::move(result));
}

}  // namespace

Bytes allocated_bytes(const fs::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 ? Bytes::of_st_blocks(status.st_blocks) : Bytes(0);
}

AccountFigures vm_figures(const ReclaimRequest& request) {
  const Report report = read_report(request.home);
  const AccountFigures* account = find_account(report.snapshot, request.vm.name);
  if (account == nullptr) throw Refusal(fmt::format("{} has no account", escape_name(request.vm.name)));
  return *account;
}

Reclaimed reclaim_offline(const ReclaimRequest& request) {
  if (request.vm.is_running()) {
    throw Refusal(fmt::format(
        "{0} runs (process {1}): without --offline its guest trims its disks; or stop it first: "
        "limaquota stop {0}",
        escape_name(request.vm.name), request.vm.qemu != 0 ? request.vm.qemu : request.vm.hostagent));
  }
  const AccountFigures account = vm_figures(request);
  Reclaimed all{.way = request.compress ? "compress" : "punch",
                .used_before = account.used,
                .used_after = account.used,
                .would_free = Bytes(0),
                .disks = {},
                .notes = {}};
  for (const fs::path& disk : disks_of(request, account)) reclaim_disk(request, disk, all);
  // A file that was replaced stays charged until the kernel has told the daemon of its last close.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  Bytes freed;
  for (const DiskReclaimed& disk : all.disks) {
    freed += minus_or_zero(disk.allocated_before, disk.allocated_after);
  }
  do {
    all.used_after = vm_figures(request).used;
  } while (!request.dry_run && all.used_after + freed > account.used + 64_KiB &&
           std::chrono::steady_clock::now() < until && ::usleep(20'000) == 0);
  return all;
}

}  // namespace limaquota
