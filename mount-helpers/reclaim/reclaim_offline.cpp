// reclaim --offline: on a stopped VM's disks, in place, without a second copy.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/reclaim/compress.hpp"
#include "mount-helpers/reclaim/free_space.hpp"
#include "mount-helpers/reclaim/image.hpp"
#include "mount-helpers/reclaim/ranges.hpp"
#include "mount-helpers/reclaim/reclaim.hpp"
#include "mount-helpers/reclaim/scan.hpp"
#include "mount-helpers/terminal.hpp"

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
    if (disk.name.starts_with(std::string(disks_directory) + "/")) {
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

std::vector<ByteRange> holes_between(const std::vector<ByteRange>& data, uint64_t size) {
  std::vector<ByteRange> holes;
  uint64_t at = 0;
  for (const ByteRange range : data) {
    append_range(holes, {at, range.offset - at});
    at = range.end();
  }
  if (at < size) append_range(holes, {at, size - at});
  return holes;
}

// One pass over an open disk. Returns what it would free, or has freed, by its own count.
Bytes punch_disk(const ReclaimRequest& request, OpenDisk& disk, bool raw, DiskReclaimed& result,
                 std::vector<std::string>& notes) {
  const std::vector<ByteRange> data = disk.data();
  const FreeSpace space = free_space_of(disk);
  for (const std::string& note : space.notes) notes.push_back(result.name + ": " + note);
  Progress progress(fmt::format("{} {}", request.dry_run ? "scan" : "reclaim", result.name),
                    Bytes(total_length(data)));
  std::vector<ByteRange> punched;
  const auto punch = [&](ByteRange range) {
    append_range(punched, range);
    if (!request.dry_run) disk.punch(range);
  };
  const Found found = scan_disk(disk, data, space.ranges, punch, [&](Bytes done) { progress.show(done); });
  result.zero_bytes = found.zero;
  result.free_bytes = found.free;
  const uint64_t inside_data = total_length(intersection(punched, data));
  if (!raw) return Bytes(inside_data);
  // What is allocated and no data was allocated ahead (fallocate) and never written: zeros too.
  const Bytes kept(total_length(data) - inside_data);
  const bool ahead = result.allocated_before > Bytes(total_length(data)) + Bytes(disk.granule());
  if (ahead && !request.dry_run) {
    for (const ByteRange hole : holes_between(data, disk.size().count())) disk.punch(hole);
  }
  return ahead ? minus_or_zero(result.allocated_before, kept) : Bytes(inside_data);
}

void reclaim_disk(const ReclaimRequest& request, const fs::path& path, Reclaimed& all) {
  refuse_backing_file(request.home, path);
  const DiskLock lock(path);
  if (!request.dry_run) remove_leftovers(lock);
  const Image image = examine_image(lock);
  const bool raw = image.format == "raw";
  DiskReclaimed result{.name = escape_name(path.string().substr(request.home.size() + 1)),
                       .format = image.format,
                       .allocated_before = allocated_bytes(path),
                       .allocated_after = Bytes(0)};
  if (!raw) check_image(lock, "before", !request.dry_run);
  lock.refuse_others();  // again: the check may have taken minutes
  {
    const auto disk = raw ? open_raw_disk(lock) : open_qcow2_disk(lock, image.cluster, !request.dry_run);
    all.would_free += punch_disk(request, *disk, raw, result, all.notes);
    if (!request.dry_run) disk->finish();
  }
  if (!raw && !request.dry_run) check_image(lock, "after", false);
  if (request.compress && raw) {
    all.notes.push_back(result.name + ": raw, not compressed: only a qcow2 can be");
  } else if (request.compress && request.dry_run) {
    all.notes.push_back(
        fmt::format("{}: compressing would take at most {} bytes of room beside the old file; what it "
                    "wins shows only when it is done",
                    result.name, room_to_compress(lock, image).count()));
  } else if (request.compress && !compress_image(request, lock, image)) {
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
