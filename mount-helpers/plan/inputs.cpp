// Reads what a plan is made of: templates, profiles, `_config`, additional disks, Lima's image cache.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

#include "accounting/escape.hpp"
#include "accounting/image_header.hpp"
#include "accounting/layout.hpp"
#include "accounting/names.hpp"
#include "accounting/size_text.hpp"
#include "accounting/template.hpp"
#include "accounting/template_yaml.hpp"
#include "fs/system/fd.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/plan/plan.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view profile_suffix = ".profile.yaml";
constexpr std::string_view template_suffix = ".yaml";

std::string shown(const fs::path& path) { return escape_name(path.string()); }

// The text of a regular file of at most longest_yaml bytes; nothing where there is no file.
std::optional<std::string> read_file(const fs::path& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a FIFO keeps nobody waiting
  if (!file && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  struct stat st {};
  if (!file || ::fstat(file.get(), &st) != 0) {
    throw WrongUse(fmt::format("cannot read {}: {}", shown(path), std::strerror(errno)));
  }
  if (!S_ISREG(st.st_mode)) throw WrongUse(fmt::format("{} is no file", shown(path)));
  if (static_cast<uint64_t>(st.st_size) > longest_yaml) {
    throw WrongUse(fmt::format("{} is over 1 MiB: no template is", shown(path)));
  }
  std::string text(static_cast<size_t>(st.st_size), '\0');
  const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
  if (got < 0) throw WrongUse(fmt::format("cannot read {}: {}", shown(path), std::strerror(errno)));
  text.resize(static_cast<size_t>(got));
  return text;
}

template <class T>
T parsed_or_wrong_use(Parsed<T> parsed, const fs::path& path) {
  if (T* value = std::get_if<T>(&parsed)) return std::move(*value);
  throw WrongUse(fmt::format("{}: {}", shown(path), std::get<ParseError>(parsed).message));
}

Template template_at(const fs::path& path) {
  const std::optional<std::string> text = read_file(path);
  return text ? parsed_or_wrong_use(parse_template(*text), path) : Template{};
}

// The file that a base or an image names; nothing for a URL of another kind.
std::optional<fs::path> local_path(std::string locator, const fs::path& directory) {
  constexpr std::string_view file_scheme = "file://";
  if (locator.starts_with(file_scheme)) locator.erase(0, file_scheme.size());
  if (locator.starts_with("template:") || locator.find("://") != std::string::npos) return std::nullopt;
  if (locator.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    locator = (home == nullptr ? "" : home) + locator.substr(1);
  }
  return directory / locator;
}

// Merges the bases in that are files, each once, and remembers those that are not read.
class Bases {
 public:
  Template merged(Template from, const fs::path& directory) {
    for (const std::string& base : std::vector<std::string>(from.bases)) {
      const std::optional<fs::path> path = local_path(base, directory);
      std::error_code error;
      if (!path || !fs::exists(*path, error) || seen_.size() >= most_bases || !seen_.insert(*path).second) {
        unread.push_back(base);
        continue;
      }
      from = fill_in(std::move(from), merged(template_at(*path), path->parent_path()));
    }
    return from;
  }

  std::vector<std::string> unread;

 private:
  static constexpr size_t most_bases = 64;
  std::set<fs::path> seen_;
};

struct AdditionalDisk {
  Bytes virtual_size, allocated;
  bool in_use = false;  // by a VM, which answers for its growth
};

AdditionalDisk find_disk(const std::string& home, const std::string& name) {
  const fs::path directory = fs::path(home) / disks_directory / name;
  const fs::path image = directory / "datadisk";
  struct stat st {};
  const Fd file(is_vm_name(name) && name.find('/') == std::string::npos
                    ? ::open(image.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)
                    : -1);
  if (!file || ::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    throw Refusal(
        fmt::format("the additional disk '{}' does not exist in {}: make it with \"limactl disk create {} "
                    "--size SIZE\"",
                    escape_name(name), escape_name(home), shell_quoted(name)));
  }
  std::vector<std::byte> head(image_header_bytes);
  const ssize_t got = ::pread(file.get(), head.data(), head.size(), 0);
  head.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return {parse_image_header(head, Bytes(static_cast<uint64_t>(st.st_size))).virtual_size,
          Bytes::of_st_blocks(st.st_blocks), fs::is_symlink(directory / "in_use_by")};
}

std::string host_arch() {
  utsname name{};
  return ::uname(&name) == 0 ? name.machine : "";
}

// Where Lima keeps what it downloaded. Source: Lima 2.2, pkg/downloader (os.UserCacheDir()).
bool is_cached(const std::string& url) {
  fs::path cache;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0') {
    cache = xdg;
  } else if (const char* home = std::getenv("HOME")) {
    cache = fs::path(home) / ".cache";
  }
  RunOptions options;
  options.input = url;
  const Ended sum = run_program({"sha256sum"}, options);
  constexpr size_t digits = 64;
  if (!sum.ok() || sum.out.size() < digits) return false;
  std::error_code error;
  return fs::exists(cache / "lima" / "download" / "by-url-sha256" / sum.out.substr(0, digits) / "data",
                    error);
}

void look_at_image(Candidate& candidate, const Template& from) {
  const TemplateImage* image = image_for(from, host_arch());
  if (image == nullptr) {
    if (from.bases.empty()) candidate.notes.emplace_back("it names no image for this host");
    return;
  }
  if (local_path(image->location, candidate.file.parent_path())) return;  // is there already
  candidate.image_url = image->location;
  candidate.image_cached = is_cached(image->location);
}

// Sizes of the VM: its disk as Lima would make it, its additional disks, and what the profile says of them.
void size_up(const std::string& home, Candidate& candidate, const Template& from, bool base_unread) {
  const Bytes disk = from.disk.value_or(lima_default_disk);
  if (!from.disk) {
    candidate.notes.push_back(fmt::format("{}{} assumed as its disk{}", base_unread ? "warning: " : "",
                                          base_unread ? "100GiB" : "100GiB, Lima's default,",
                                          base_unread ? ": its base is not read, and may say another" : ""));
  }
  PlannedVm& vm = candidate.vm;
  vm.virtual_size = disk;
  Bytes disks, present;
  for (const std::string& name : from.additional_disks) {
    const AdditionalDisk found = find_disk(home, name);
    vm.virtual_size = plus_or_unlimited(vm.virtual_size, found.virtual_size);
    if (found.in_use) {
      candidate.notes.push_back(
          fmt::format("warning: the additional disk '{}' is in use by another VM now", escape_name(name)));
      continue;
    }
    disks = plus_or_unlimited(disks, found.virtual_size);
    present = plus_or_unlimited(present, std::min(found.allocated, found.virtual_size));
    candidate.disks.push_back(name);
  }
  const std::optional<Profile>& profile = candidate.profile;
  // The profile speaks of the VM's own disk.
  vm.limit = profile && profile->limit ? plus_or_unlimited(*profile->limit, disks) : vm.virtual_size;
  vm.temporary = profile && profile->temporary;
  if (profile && !profile->lines.empty()) {
    vm.peak = plus(profile->peak(), {disks, disks});
    vm.steady = plus(profile->steady(), {disks, disks});
    if (disks.count() > 0) {
      candidate.notes.push_back(
          fmt::format("{} of additional disks come on top of its profile", format_size(disks)));
    }
  } else {
    vm.peak = vm.steady = {vm.virtual_size, vm.virtual_size};
    candidate.notes.emplace_back("no profile: the peak is the virtual size");
  }
  vm.present = present;
  if (vm.peak.high > vm.limit) {
    candidate.notes.push_back(
        fmt::format("warning: its peak is above its limit of {}: it will be paused", format_size(vm.limit)));
  }
  if (vm.peak.high > vm.virtual_size) {
    candidate.notes.push_back(
        fmt::format("warning: its peak is above its virtual size of {}: its disk is too small",
                    format_size(vm.virtual_size)));
  }
}

// Installed beside the program, or in the tree that it was built in.
std::optional<fs::path> templates_directory() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<fs::path> places = {program / "../share/limaquota/templates",
                                  program / "../../mount-helpers/templates"};
  if (const char* given = std::getenv("LIMAQUOTA_TEMPLATES")) places.insert(places.begin(), given);
  for (const fs::path& place : places) {
    if (fs::is_directory(place, error)) return fs::canonical(place, error);
  }
  return std::nullopt;
}

fs::path find_template(const std::string& name_or_path) {
  const bool is_path = name_or_path.find('/') != std::string::npos || name_or_path.ends_with(template_suffix);
  if (name_or_path.starts_with("template:") || name_or_path.find("://") != std::string::npos) {
    throw WrongUse(fmt::format("'{}': only templates in files are read; \"limactl template copy\" makes one",
                               escape_name(name_or_path)));
  }
  std::error_code error;
  if (is_path) {
    if (fs::exists(name_or_path, error)) return fs::absolute(name_or_path);
    throw WrongUse(fmt::format("no template {}", escape_name(name_or_path)));
  }
  const std::optional<fs::path> directory = templates_directory();
  fs::path file = directory ? *directory / (name_or_path + std::string(template_suffix)) : fs::path();
  if (directory && fs::exists(file, error)) return file;
  std::string names;
  for (const std::string& name : shipped_templates()) names += (names.empty() ? "" : ", ") + name;
  throw WrongUse(fmt::format("no template '{}'; name a file, or one of: {}", escape_name(name_or_path),
                             names.empty() ? "none is installed" : names));
}

}  // namespace

std::vector<std::string> shipped_templates() {
  std::vector<std::string> names;
  const std::optional<fs::path> directory = templates_directory();
  std::error_code error;
  if (!directory) return names;
  for (fs::directory_iterator entry(*directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.ends_with(template_suffix) || name.ends_with(profile_suffix)) continue;
    names.push_back(name.substr(0, name.size() - template_suffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

Candidate read_candidate(const std::string& home, const std::string& name_or_path) {
  Candidate candidate;
  candidate.file = find_template(name_or_path);
  candidate.name = candidate.file.stem().string();
  const fs::path directory = candidate.file.parent_path();
  const fs::path config = fs::absolute(home) / "_config";
  Bases bases;
  Template own = template_at(candidate.file);
  if (fs::exists(config / "base.yaml")) own.bases.insert(own.bases.begin(), (config / "base.yaml").string());
  own = bases.merged(std::move(own), directory);
  const bool base_unread = !bases.unread.empty();
  const bool certain = own.disk.has_value();
  const Template overrides = template_at(config / "override.yaml");
  Template filled = fill_in(overrides, fill_in(std::move(own), template_at(config / "default.yaml")));
  filled.bases = bases.unread;
  const fs::path profile = directory / (candidate.name + std::string(profile_suffix));
  if (const std::optional<std::string> text = read_file(profile)) {
    candidate.profile = parsed_or_wrong_use(parse_profile(*text), profile);
    candidate.profile_text = *text;
  }
  if (!certain && !overrides.disk && filled.disk && base_unread) {
    candidate.notes.push_back(
        fmt::format("warning: {} assumed as its disk, from _config/default.yaml: its base "
                    "is not read, and may say another",
                    format_size(*filled.disk)));
  }
  size_up(home, candidate, filled, base_unread);
  look_at_image(candidate, filled);
  return candidate;
}

}  // namespace limaquota
