#include "mount-helpers/reclaim/compress.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/programs/guard.hpp"
#include "mount-helpers/reclaim/leftovers.hpp"
#include "mount-helpers/reclaim/qemu_img.hpp"
#include "mount-helpers/reclaim/ranges.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t sample_bytes = uint64_t{64} << 20;  // compressed in a second or two

[[noreturn]] void fail(const char* what, const fs::path& path) {
  throw Refusal(fmt::format("cannot {} {}: {}", what, escape_name(path.string()), std::strerror(errno)));
}

// The second file: gone with this object, or by a guard, unless it took the disk's place.
class SecondFile {
 public:
  explicit SecondFile(const fs::path& disk)
      : name_(new_second_file(disk).string()),
        guard_([this] { ::unlink(name_.c_str()); }),  // before there is a file
        file_(::open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR)) {
    if (!file_) fail("make", name_);
    mark_in_use(file_.get());
  }
  ~SecondFile() {
    if (file_) ::unlink(name_.c_str());
  }
  SecondFile(const SecondFile&) = delete;
  SecondFile& operator=(const SecondFile&) = delete;

  const std::string& name() const { return name_; }

  void take_the_place_of(const DiskLock& lock) {
    struct stat status {};
    if (::fstat(lock.fd(), &status) != 0 || ::fchmod(file_.get(), status.st_mode & 07777) != 0 ||
        (::fchown(file_.get(), status.st_uid, status.st_gid) != 0 && errno != EPERM)) {
      fail("give the mode and owner of the disk to", name_);
    }
    if (::fsync(file_.get()) != 0) fail("sync", name_);
    if (::rename(name_.c_str(), lock.path().c_str()) != 0) fail("replace", lock.path());
    file_.reset();
    const Fd directory(::open(lock.path().parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0) fail("sync", lock.path().parent_path());
  }

 private:
  std::string name_;
  Guard guard_;
  Fd file_;
};

// The start of the command, without names; what is made is as the image is.
std::vector<std::string> convert_words(const Image& image) {
  const Json specific = image.info.value("format-specific", Json::object()).value("data", Json::object());
  std::string options =
      fmt::format("cluster_size={},compat={}", image.cluster, specific.value("compat", "1.1"));
  if (specific.value("extended-l2", false)) options += ",extended_l2=on";
  const std::string compression = specific.value("compression-type", "zlib");
  if (compression != "zlib") options += ",compression_type=" + compression;
  return {"qemu-img", "convert", "-p", "-c", "-O", "qcow2", "-o", options};
}

std::vector<std::string> convert_words(const DiskLock& lock, const Image& image, const std::string& target) {
  std::vector<std::string> words = convert_words(image);
  const std::string backing = image.info.value("backing-filename", "");
  if (!backing.empty()) {
    const std::string format = image.info.value("backing-filename-format", "");
    if (format.empty()) {
      throw Refusal(
          fmt::format("{} does not say its backing file's format: first \"qemu-img rebase -u -b FILE -F "
                      "FORMAT\"",
                      escape_name(lock.path().string())));
    }
    words.insert(words.end(), {"-B", backing, "-F", format});
  }
  words.insert(words.end(), {unlocked_name(lock.path(), "qcow2"), target});
  return words;
}

void run_or_refuse(const std::vector<std::string>& words, const DiskLock& lock, const Ahead& ahead) {
  const Ended ended = run_qemu_img(words, {lock.fd()}, ahead);
  if (ended.ok()) return;
  throw Refusal(fmt::format("{} stays as it was: qemu-img {}: {}", escape_name(lock.path().string()),
                            words[1],
                            ended.err.empty() ? fmt::format("status {}", ended.status) : ended.complaint()));
}

// Spread evenly over the ranges, which are whole granules: granules of at most so many bytes in all.
std::vector<ByteRange> sample_of(const std::vector<ByteRange>& ranges, uint64_t granule, uint64_t most) {
  std::vector<ByteRange> sample;
  const uint64_t all = total_length(ranges) / granule + 1;
  const uint64_t wanted = std::min(all, std::max(most / granule, uint64_t{1}));
  uint64_t number = 0;
  for (const ByteRange range : ranges) {
    for (uint64_t at = range.offset; at < range.end(); at += granule, ++number) {
      if (number * wanted / all == (number + 1) * wanted / all) continue;
      append_range(sample, {at, std::min(granule, range.end() - at)});
    }
  }
  return sample;
}

void refuse_unfit(const DiskLock& lock, const Image& image) {
  const std::string name = escape_name(lock.path().string());
  struct stat status {};
  if (image.format != "qcow2")
    throw Refusal(fmt::format("{} is {}: only a qcow2 can be compressed", name, image.format));
  if (::fstat(lock.fd(), &status) != 0) fail("read", lock.path());
  if (status.st_nlink > 1) throw Refusal(fmt::format("{} has more than one name (hard links)", name));
  const Json specific = image.info.value("format-specific", Json::object()).value("data", Json::object());
  if (!specific.value("bitmaps", Json::array()).empty()) {
    throw Refusal(fmt::format("{} has dirty bitmaps, which a new file would lose", name));
  }
}

}  // namespace

Bytes room_to_compress(const DiskLock& lock, const Image& image) {
  // A cluster that does not become smaller is stored as it is, so the new file is never larger.
  const Bytes allocated = allocated_bytes(lock.path());
  if (image.info.contains("backing-filename")) return allocated;
  const Json measured = ask_qemu_img({"measure", "-O", "qcow2", unlocked_name(lock.path(), "qcow2")});
  if (measured.is_null()) return allocated;
  return std::min(allocated, Bytes(measured.value("required", allocated.count())));
}

CompressedSample sample_compression(OpenDisk& disk, const std::vector<ByteRange>& data, const Image& image) {
  const Fd plain(::memfd_create("plain", MFD_CLOEXEC)), compressed(::memfd_create("compressed", MFD_CLOEXEC));
  std::vector<std::byte> piece(disk.granule());
  CompressedSample sample;
  for (const ByteRange range : sample_of(data, disk.granule(), sample_bytes)) {
    for (uint64_t at = range.offset; at < range.end(); at += piece.size()) {
      disk.read(at, std::span(piece).first(std::min<uint64_t>(piece.size(), range.end() - at)));
      if (::write(plain.get(), piece.data(), piece.size()) != static_cast<ssize_t>(piece.size())) {
        fail("write", "a sample in memory");
      }
      sample.plain += Bytes(piece.size());
    }
  }
  std::vector<std::string> words = convert_words(image);
  for (const Fd* file : {&plain, &compressed}) words.push_back(fmt::format("/proc/self/fd/{}", file->get()));
  const Ended ended =
      run_qemu_img(words, {plain.get(), compressed.get()}, {"compress a sample", sample.plain});
  struct stat status {};
  if (!ended.ok() || ::fstat(compressed.get(), &status) != 0) {
    throw Refusal(fmt::format("cannot compress a sample: qemu-img: {}", ended.complaint()));
  }
  sample.compressed = std::min(Bytes(static_cast<uint64_t>(status.st_size)), sample.plain);
  return sample;
}

bool compress_image(const ReclaimRequest& request, const DiskLock& lock, const Image& image) {
  lock.refuse_others();
  refuse_unfit(lock, image);
  const std::string name = escape_name(lock.path().filename().string());
  const Bytes room = room_to_compress(lock, image);
  const AccountFigures account = vm_figures(request);
  if (account.writable < room) {
    const HostFigures host = read_report(request.home).snapshot.host;
    throw Refusal(fmt::format(
        "{}: the compressed file may take {} beside the old one, and {} is writable (limit {}, used {}, host "
        "free "
        "{}, its reserve {}); raise the limit for the while: limaquota set {} {}",
        name, format_size(room), format_size(account.writable), format_size(account.limit),
        format_size(account.used), format_size(host.free), format_size(host.reserve),
        escape_name(request.vm.name),
        format_size(account.limit.is_unlimited() ? account.limit : plus_or_unlimited(account.limit, room))));
  }
  SecondFile second(lock.path());
  const Bytes total = image.virtual_size;
  run_or_refuse(convert_words(lock, image, second.name()), lock, {"compress " + name, total});
  if (allocated_bytes(second.name()) >= allocated_bytes(lock.path())) return false;
  run_or_refuse({"qemu-img", "compare", "-p", unlocked_name(lock.path(), "qcow2"),
                 unlocked_name(second.name(), "qcow2")},
                lock, {"compare " + name, total});
  check_image(lock, second.name(), image, "compressed", false);
  second.take_the_place_of(lock);
  return true;
}

}  // namespace limaquota
