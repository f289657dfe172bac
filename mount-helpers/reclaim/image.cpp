#include "mount-helpers/reclaim/image.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <set>
#include <string_view>
#include <vector>

#include "accounting/layout.hpp"
#include "accounting/usage_text.hpp"
#include "mount-helpers/commands.hpp"
#include "mount-helpers/process.hpp"
#include "mount-helpers/reclaim/companion.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::chrono::seconds answer_deadline{120};
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

bool same_file(const fs::path& path, const struct stat& status) {
  struct stat other {};
  return ::stat(path.c_str(), &other) == 0 && other.st_dev == status.st_dev && other.st_ino == status.st_ino;
}

// The file in a name as QEMU takes it: "file:NAME", "json:{...}" or a plain name.
std::string file_in(const std::string& name) {
  if (name.starts_with("file:")) return name.substr(5);
  if (!name.starts_with("json:")) return name;
  Json node = Json::parse(name.substr(5), nullptr, false);
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

std::string unlocked_name(const fs::path& disk, const std::string& driver) {
  const Json file = {
      {"driver", "file"}, {"filename", disk.string()}, {"locking", "off"}, {"discard", "unmap"}};
  Json image = {{"file", file}, {"discard", "unmap"}};
  if (!driver.empty()) image["driver"] = driver;
  return "json:" + image.dump();
}

Json ask_qemu_img(std::vector<std::string> words, std::string* complaint) {
  words.insert(words.begin(), "qemu-img");
  words.insert(words.begin() + 2, "--output=json");
  RunOptions options;
  options.deadline = answer_deadline;
  const Ended ended = run_program(words, options);
  if (ended.status == 127) throw Refusal("there is no qemu-img: install qemu-utils");
  Json json = ended.ok() ? Json::parse(ended.out, nullptr, false) : Json();
  if (json.is_object()) return json;
  if (complaint != nullptr) *complaint = ended.complaint();
  return {};
}

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

void check_image(const DiskLock& lock, const std::string& when, bool repair_leaks) {
  std::vector<std::string> words = {"qemu-img", "check", unlocked_name(lock.path(), "qcow2")};
  Ended ended = Companion(words, {lock.fd()}).wait();
  if (ended.status == leaks_only && repair_leaks) {
    words.insert(words.begin() + 2, {"-r", "leaks"});
    ended = Companion(words, {lock.fd()}).wait();
  }
  if (ended.ok() || (ended.status == leaks_only && !repair_leaks)) return;
  throw Refusal(fmt::format("{} is not clean {}: qemu-img check: {}", escape_name(lock.path().string()), when,
                            ended.complaint()));
}

}  // namespace limaquota
