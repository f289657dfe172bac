// The files that `limaquota enable` gives to systemd's user manager, and where they lie. Source of the
// format: systemd.syntax(7), systemd.service(5); of Lima's own unit: Lima 2.2, pkg/autostart.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace limaquota {

// What the units say. Paths are absolute.
struct UnitValues {
  std::string program;       // limaquota
  std::string home;          // the Lima home, without symlinks
  std::string search_path;   // $PATH for limactl; empty: systemd's
  std::string metrics_file;  // empty: no metrics are written
};

struct UnitFile {
  std::string path;       // below the directory of units
  std::string text;       // complete
  std::string wanted_by;  // the unit that starts it; empty: none does
};

inline constexpr const char* mount_unit = "limaquota.service";
inline constexpr const char* watch_unit = "limaquota-watch.service";
inline constexpr const char* metrics_timer = "limaquota-metrics.timer";

// All files that the values ask for. Throws WrongUse for a path that cannot stand in a unit (control
// characters, backslashes, not UTF-8).
std::vector<UnitFile> unit_files(const UnitValues& values);

// $XDG_CONFIG_HOME/systemd/user, else ~/.config/systemd/user. Functions on it are not thread safe.
class UnitDirectory {
 public:
  // Throws Refusal where neither $XDG_CONFIG_HOME nor $HOME is set.
  UnitDirectory();

  const std::filesystem::path& path() const { return path_; }
  // The home that the installed units cover, nothing where there are none, and the metrics file.
  std::optional<std::string> home() const { return said("Home="); }
  std::string metrics_file() const { return said("Metrics=").value_or(""); }

  // Writes the files, each by a rename, and the symlinks by which systemd starts them (what `systemctl
  // enable` does, without a manager). Throws Refusal, before anything is written, where a file of that name
  // is not ours, and where writing fails.
  void install(const std::vector<UnitFile>& files) const;
  // Removes all files and symlinks that install() may have written, and directories that became empty. Throws
  // Refusal.
  void remove() const;

 private:
  std::optional<std::string> said(const std::string& key) const;
  bool is_foreign(const std::filesystem::path& file) const;

  std::filesystem::path path_;
};

}  // namespace limaquota
