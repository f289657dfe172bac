#include "mount-helpers/mounting/units.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>

#include "accounting/escape.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "unit_templates.hpp"  // made by CMake from systemd/*.in: the texts, each by the name of its file

namespace limaquota {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view first_words = "# Written by \"limaquota enable";

// What install() may write: a template, its place, and what wants it.
struct UnitKind {
  std::string_view text;
  const char* path;
  const char* wanted_by;
  bool for_metrics;
};
const UnitKind kinds[] = {
    {unit_templates::limaquota_service, mount_unit, "default.target", false},
    {unit_templates::limaquota_watch_service, watch_unit, mount_unit, false},
    {unit_templates::lima_vm_conf, "lima-vm@.service.d/limaquota.conf", "", false},
    {unit_templates::limaquota_metrics_service, "limaquota-metrics.service", "", true},
    {unit_templates::limaquota_metrics_timer, metrics_timer, "timers.target", true},
};

void check_path(const std::string& path) {
  std::string without_blanks = path;
  std::replace(without_blanks.begin(), without_blanks.end(), ' ', '_');
  if (escape_name(without_blanks) == without_blanks) return;
  throw WrongUse(
      fmt::format("{} cannot stand in a systemd unit: choose a path without control characters and "
                  "backslashes",
                  escape_name(path)));
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) {
    text.replace(at, what.size(), by);
  }
  return text;
}

// As a setting's value: specifiers start with %.
std::string as_value(const std::string& text) { return replaced(text, "%", "%%"); }
// As one word of a value. A backslash is in no path here.
std::string as_word(const std::string& text) { return "\"" + replaced(as_value(text), "\"", "\\\"") + "\""; }
// As one argument of a command line, where $ starts a variable too.
std::string as_argument(const std::string& text) { return replaced(as_word(text), "$", "$$"); }

std::string text_of(const UnitKind& kind, const UnitValues& values) {
  return fmt::format(
      fmt::runtime(kind.text), fmt::arg("program", as_word(values.program)),
      fmt::arg("home", as_argument(values.home)), fmt::arg("home_text", as_value(values.home)),
      fmt::arg("home_raw", values.home), fmt::arg("metrics_word", as_argument(values.metrics_file)),
      fmt::arg("metrics_file", values.metrics_file),
      fmt::arg("environment", values.search_path.empty()
                                  ? ""
                                  : "Environment=" + as_word("PATH=" + values.search_path) + "\n"));
}

[[noreturn]] void refuse(const char* what, const fs::path& path, const std::error_code& error) {
  throw Refusal(fmt::format("cannot {} {}: {}", what, escape_name(path.string()), error.message()));
}

fs::path link_of(const fs::path& directory, const UnitKind& kind) {
  return directory / (std::string(kind.wanted_by) + ".wants") / kind.path;
}

void write_file(const fs::path& path, const std::string& text) {
  const fs::path fresh = path.string() + ".new";
  std::ofstream file(fresh, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) refuse("write", fresh, {errno, std::generic_category()});
  std::error_code error;
  fs::rename(fresh, path, error);
  if (error) refuse("write", path, error);
}

void link_to(const fs::path& link, const fs::path& target) {
  std::error_code error;
  fs::remove(link, error);
  fs::create_symlink(target, link, error);
  if (error) refuse("make", link, error);
}

// And the directory that was made for it, where it is empty now.
void remove_file(const fs::path& path, const fs::path& keep) {
  std::error_code error;
  fs::remove(path, error);
  if (error) refuse("remove", path, error);
  if (path.parent_path() != keep) ::rmdir(path.parent_path().c_str());
}

}  // namespace

std::vector<UnitFile> unit_files(const UnitValues& values) {
  for (const std::string* path : {&values.program, &values.home, &values.search_path, &values.metrics_file}) {
    check_path(*path);
  }
  std::vector<UnitFile> files;
  for (const UnitKind& kind : kinds) {
    if (kind.for_metrics && values.metrics_file.empty()) continue;
    files.push_back({kind.path, text_of(kind, values), kind.wanted_by});
  }
  return files;
}

UnitDirectory::UnitDirectory() {
  for (const auto& [variable, below] : {std::pair{"XDG_CONFIG_HOME", ""}, std::pair{"HOME", ".config"}}) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value != '/') continue;
    path_ = fs::path(value) / below / "systemd/user";
    return;
  }
  throw Refusal("where do your systemd units go? Set $HOME");
}

std::optional<std::string> UnitDirectory::said(const std::string& key) const {
  std::ifstream file(path_ / mount_unit);
  bool ours = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "[X-Limaquota]") ours = true;
    if (ours && line.starts_with(key)) return line.substr(key.size());
  }
  return std::nullopt;
}

bool UnitDirectory::is_foreign(const fs::path& file) const {
  std::ifstream content(file);
  std::string line;
  return content && !(std::getline(content, line) && line.starts_with(first_words));
}

void UnitDirectory::install(const std::vector<UnitFile>& files) const {
  for (const UnitFile& file : files) {
    if (!is_foreign(path_ / file.path)) continue;
    throw Refusal(
        fmt::format("{} was not written by limaquota: move it away first", (path_ / file.path).string()));
  }
  for (const UnitFile& file : files) {
    const fs::path path = path_ / file.path;
    const fs::path wants = path_ / (file.wanted_by + ".wants");
    for (const fs::path& directory :
         {path.parent_path(), file.wanted_by.empty() ? path.parent_path() : wants}) {
      std::error_code error;
      fs::create_directories(directory, error);
      if (error) refuse("make", directory, error);
    }
    write_file(path, file.text);
    if (!file.wanted_by.empty()) link_to(wants / file.path, path);
  }
}

void UnitDirectory::remove() const {
  for (const UnitKind& kind : kinds) {
    const fs::path path = path_ / kind.path;
    if (is_foreign(path)) continue;
    if (*kind.wanted_by != '\0') remove_file(link_of(path_, kind), path_);
    remove_file(path, path_);
  }
}

}  // namespace limaquota
