#include "mount-helpers/reclaim/image.hpp"

#include <fmt/core.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <set>
#include <string_view>
#include <vector>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/reclaim/qemu_img.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr int leaks_only = 3;  // exit status of qemu-img check

std::string why_unfit(const Json& info) {
  const std::string format = info.value("format", "");
  if (format == "raw") return "";
  if (format != "qcow2") return fmt::format("is {}: reclaim knows raw and qcow2", escape_name(format));
  const Json specific = info.value("format-specific", Json::object()).value("data", Json::object());
  if (info.value("encrypted", false) || specific.contains("encrypt")) {
    return "is encrypted: what it holds cannot be seen";
  }
  if (specific.contains("data-file")) return "has an external data file";
  if (!info.value("snapshots", Json::array()).empty()) {
    return "has internal snapshots, which need their clusters: delete them first (limactl snapshot delete)";
  }
  if (info.value("dirty-flag", false)) return "is marked dirty: start its VM once, or qemu-img check -r all";
  if (specific.value("corrupt", false)) return "is marked corrupt: see qemu-img check";
  if (info.contains("backing-filename") && specific.value("compat", "") == "0.10") {
    return "is a qcow2 of version 2 with a backing file: first \"qemu-img amend -o compat=1.1\"";
  }
  return "";
}

uint64_t big_endian(const char* bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// About what "qemu-img check" reads of a qcow2: each L2 table twice, and the refcounts, two bytes a cluster
// of the file. The header's l1_size is at 36, l1_table_offset at 40 (QEMU docs/interop/qcow2.txt). Nothing
// here is believed: it only says where a bar ends.
Bytes read_by_check(const fs::path& path, uint64_t cluster) {
  constexpr size_t l1_most = size_t{32} << 20;  // QEMU's own limit, bytes
  std::ifstream file(path, std::ios::binary);
  std::array<char, 48> head{};
  std::error_code error;
  const uint64_t clusters = fs::file_size(path, error) / cluster;
  if (!file.read(head.data(), head.size()) || error) return Bytes(0);
  std::string l1(std::min<size_t>(big_endian(head.data() + 36, 4) * 8, l1_most), '\0');
  file.seekg(static_cast<std::streamoff>(big_endian(head.data() + 40, 8)));
  file.read(l1.data(), static_cast<std::streamsize>(l1.size()));
  uint64_t tables = 0;
  for (size_t at = 0; at < l1.size(); at += 8) tables += big_endian(l1.data() + at, 8) != 0;
  return Bytes(tables * 2 * cluster + clusters * 2);
}

bool same_file(const fs::path& path, const struct stat& status) {
  struct stat other {};
  return ::stat(path.c_str(), &other) == 0 && other.st_dev == status.st_dev && other.st_ino == status.st_ino;
}

// The file in a name as QEMU takes it: "file:NAME", "json:{...}" or a plain name.
std::string file_in(const std::string& name) {
  if (name.starts_with("file:")) return name.substr(5);
  if (!name.starts_with("json:")) return name;
  Json node = parse_json(name.substr(5));
  while (node.is_object()) {
    for (const char* key : {"filename", "file.filename"}) {
      if (node.contains(key) && node[key].is_string()) return file_in(node[key].get<std::string>());
    }
    node = Json(node.value("file", Json()));
  }
  return {};
}

// The image that backs this one, or nothing. QEMU's own lock is not in the way: the disk may be in use.
fs::path backing_of(const fs::path& disk) {
  const Json info = ask_qemu_img({"info", "--force-share", "--", disk.string()});
  if (info.is_null()) return {};
  const std::string name =
      file_in(info.value("full-backing-filename", info.value("backing-filename", std::string())));
  return name.empty() ? fs::path() : disk.parent_path() / name;
}

bool is_qcow2(const fs::path& path) {
  std::error_code error;
  std::array<char, 4> magic{};
  return fs::is_regular_file(path, error) &&
         std::ifstream(path, std::ios::binary).read(magic.data(), magic.size()) &&
         std::string_view(magic.data(), magic.size()) == "QFI\xfb";
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(entry->path());
  }
  return entries;
}

// Whatever the name: every qcow2 in a VM's directory or an additional disk's.
std::vector<fs::path> overlays_in(const fs::path& home) {
  std::vector<fs::path> directories = entries_of(home);
  for (fs::path& disk : entries_of(home / disks_directory)) directories.push_back(std::move(disk));
  std::vector<fs::path> overlays;
  for (const fs::path& directory : directories) {
    if (directory.filename().string().starts_with(".")) continue;
    for (fs::path& file : entries_of(directory)) {
      if (is_qcow2(file)) overlays.push_back(std::move(file));
    }
  }
  return overlays;
}

}  // namespace

Image examine_image(const DiskLock& lock) {
  const std::string name = escape_name(lock.path().string());
  std::string complaint;
  const Json info = ask_qemu_img({"info", unlocked_name(lock.path(), "")}, &complaint);
  if (info.is_null()) throw Refusal(fmt::format("{}: qemu-img info: {}", name, complaint));
  const std::string why = why_unfit(info);
  if (!why.empty()) throw Refusal(fmt::format("{} {}", name, why));
  return {.format = info.value("format", ""),
          .virtual_size = Bytes(info.value("virtual-size", uint64_t{0})),
          .cluster = info.value("cluster-size", uint64_t{65536}),
          .info = info};
}

void refuse_backing_file(const fs::path& home, const fs::path& disk) {
  struct stat self {};
  if (::stat(disk.c_str(), &self) != 0) return;
  std::set<fs::path> seen;
  for (const fs::path& user : overlays_in(home)) {
    if (same_file(user, self)) continue;
    for (fs::path backing = backing_of(user); !backing.empty() && seen.insert(backing).second;
         backing = backing_of(backing)) {
      if (!same_file(backing, self)) continue;
      throw Refusal(fmt::format("{} is the backing file of {}: it must stay as it is",
                                escape_name(disk.string()), escape_name(user.string())));
    }
  }
}

Bytes check_image(const DiskLock& lock, const fs::path& path, const Image& image, const std::string& when,
                  bool repair_leaks) {
  const Ahead ahead{.title = fmt::format("check {}", escape_name(lock.path().filename().string())),
                    .total = read_by_check(path, image.cluster),
                    .by_reading = true};
  std::vector<std::string> words = {"qemu-img", "check", "--output=json", unlocked_name(path, "qcow2")};
  Ended ended = run_qemu_img(words, {lock.fd()}, ahead);
  if (ended.status == leaks_only && repair_leaks) {
    words.insert(words.begin() + 2, {"-r", "leaks"});
    ended = run_qemu_img(words, {lock.fd()}, ahead);
  }
  if (!ended.ok() && (ended.status != leaks_only || repair_leaks)) {
    throw Refusal(fmt::format("{} is not clean {}: qemu-img check: {}", escape_name(lock.path().string()),
                              when, ended.complaint()));
  }
  const Json said = parse_json(ended.out);
  const Json clusters = said.is_object() ? said.value("allocated-clusters", Json()) : Json();
  return Bytes(clusters.is_number_unsigned() ? clusters.get<uint64_t>() * image.cluster : 0);
}

}  // namespace limaquota
