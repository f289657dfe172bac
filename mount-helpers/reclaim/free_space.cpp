#include "mount-helpers/reclaim/free_space.hpp"

#include <blkid/blkid.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/reclaim/ext_bitmap.hpp"
#include "mount-helpers/reclaim/ranges.hpp"

namespace limaquota {
namespace {

constexpr uint64_t sector = 512;                       // libblkid's unit, whatever the disk's
constexpr uint64_t outline_bytes = uint64_t{2} << 20;  // signatures lie in the first and the last MiB

// libblkid wants a file: a sparse one in memory that has the start and the end of the range.
class Outline {
 public:
  Outline(OpenDisk& disk, ByteRange range)
      : file_(::memfd_create("outline", MFD_CLOEXEC)), probe_(::blkid_new_probe(), &::blkid_free_probe) {
    if (!file_ || !probe_ || ::ftruncate(file_.get(), static_cast<off_t>(range.length)) != 0) {
      throw Refusal("no memory to look for filesystems");
    }
    const uint64_t part = std::min(outline_bytes, range.length);
    copy(disk, range.offset, 0, part);
    copy(disk, range.end() - part, range.length - part, part);
    if (::blkid_probe_set_device(probe_.get(), file_.get(), 0, 0) != 0)
      throw Refusal("libblkid does not start");
  }
  blkid_probe probe() const { return probe_.get(); }

 private:
  void copy(OpenDisk& disk, uint64_t from, uint64_t to, uint64_t length) {
    std::vector<std::byte> bytes(length);
    disk.read(from, bytes);
    if (::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(to)) !=
        static_cast<ssize_t>(bytes.size())) {
      throw Refusal("no memory to look for filesystems");
    }
  }

  Fd file_;
  std::unique_ptr<blkid_struct_probe, decltype(&::blkid_free_probe)> probe_;
};

// Where filesystems may lie: the partitions, or the whole disk where there is no partition table.
std::vector<ByteRange> places(OpenDisk& disk) {
  const uint64_t size = disk.size().count();
  const Outline outline(disk, {0, size});
  const blkid_partlist list = ::blkid_probe_get_partitions(outline.probe());
  const int count = list == nullptr ? 0 : ::blkid_partlist_numof_partitions(list);
  if (count <= 0 && (list == nullptr || ::blkid_partlist_get_table(list) == nullptr)) return {{0, size}};
  std::vector<ByteRange> found;
  for (int i = 0; i < count; ++i) {
    const blkid_partition partition = ::blkid_partlist_get_partition(list, i);
    if (::blkid_partition_is_extended(partition) != 0) continue;
    const auto start = static_cast<uint64_t>(::blkid_partition_get_start(partition));
    const auto length = static_cast<uint64_t>(::blkid_partition_get_size(partition));
    if (start == 0 || start >= size / sector || length == 0 || length > size / sector - start) continue;
    found.push_back({start * sector, length * sector});
  }
  std::sort(found.begin(), found.end(),
            [](const ByteRange& a, const ByteRange& b) { return a.offset < b.offset; });
  return found;
}

// "ext4", "swap", "LVM2_member"...; empty where there is nothing known, or more than one thing.
std::string type_of(OpenDisk& disk, ByteRange range) {
  const Outline outline(disk, range);
  ::blkid_probe_enable_superblocks(outline.probe(), 1);
  ::blkid_probe_set_superblocks_flags(outline.probe(), BLKID_SUBLKS_TYPE);
  const char* type = nullptr;
  if (::blkid_do_safeprobe(outline.probe()) != 0 ||
      ::blkid_probe_lookup_value(outline.probe(), "TYPE", &type, nullptr) != 0) {
    return "";
  }
  return type;
}

}  // namespace

FreeSpace free_space_of(OpenDisk& disk) {
  FreeSpace space;
  uint64_t end = 0;
  for (const ByteRange place : places(disk)) {
    if (place.offset < end) {
      space.notes.push_back("partitions overlap: none of them is believed");
      space.ranges.clear();
      return space;
    }
    end = place.end();
    const std::string type = type_of(disk, place);
    if (type.empty() || type == "vfat" || type == "swap") continue;  // too little to be worth a word
    const std::string where = fmt::format("the {} at {} MiB", escape_name(type), place.offset >> 20);
    if (type != "ext2" && type != "ext3" && type != "ext4") {
      space.notes.push_back(fmt::format("{}: its free blocks are not known, only zeros are found", where));
      continue;
    }
    const ExtBitmap bitmap = read_ext_bitmap(disk, place);
    if (!bitmap.why_not.empty()) space.notes.push_back(fmt::format("{}: {}", where, bitmap.why_not));
    for (const ByteRange range : bitmap.free) append_range(space.ranges, range);
  }
  return space;
}

}  // namespace limaquota
