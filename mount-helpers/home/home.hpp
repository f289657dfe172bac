// The Lima home as the commands see it: where it is, whether limaquota covers it, and its figures.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/figures.hpp"
#include "mount-helpers/home/mount_state.hpp"
#include "mount-helpers/home/paths.hpp"

namespace limaquota {

class Command;
class Option;

// `given` (the --home option), else $LIMA_HOME, else ~/.lima. Throws Refusal where none of them is known.
std::string choose_home(const std::string& given);

// Reads `.usage/<name>` of the home, again and again. Not thread safe.
class UsageReader {
 public:
  UsageReader(std::string home, const std::string& name);

  // The text; nothing where limaquota is not mounted there. Throws Refusal where it cannot be read, where the
  // daemon does not answer in time (mount_state.hpp), and where `keep_on`, asked while it waits, says no.
  // What was not answered is waited for by the next call, so that of the processes that read one at most is
  // left.
  std::optional<std::string> read_if_mounted(const std::function<bool()>& keep_on = nullptr);
  // Throws Refusal also where it is not mounted.
  std::string read(const std::function<bool()>& keep_on = nullptr);
  const std::string& path() const { return path_; }

 private:
  std::string home_, path_;
  std::optional<ReadApart> reading_;
};
// The same, once.
std::string read_usage(const std::string& home, const std::string& name);

// The --home option, which every command has.
Option add_home_option(Command& command, std::string& home);

// The figures of a home: as the daemon wrote them, in JSON, and as values.
struct Report {
  std::string json;
  Snapshot snapshot;
  std::vector<std::string> notes;  // survey() only: what was not counted or is not limited, a line each
};
// From the text of `.usage/_all.json`. Throws Refusal, naming `origin`, where it is none.
Report parse_report(const std::string& text, const std::string& origin);

// Reads `.usage/_all.json` of the home, again and again, as UsageReader does.
class ReportReader {
 public:
  explicit ReportReader(const std::string& home);
  Report read(const std::function<bool()>& keep_on = nullptr);

 private:
  UsageReader text_;
};
// The same, once.
Report read_report(const std::string& home);
// Nothing where limaquota is not mounted there. Throws Refusal where it cannot be known.
std::optional<Report> read_report_if_mounted(const std::string& home);

// The account's figures, or null where there is no such account.
const AccountFigures* find_account(const Snapshot& snapshot, std::string_view name);
bool is_vm(const AccountFigures& account);
bool is_disk(const AccountFigures& account);
// The names of those accounts, escaped: "a, b, c"; "none" where there are none.
std::string names_of(const Snapshot& snapshot, bool (*wanted)(const AccountFigures&));

}  // namespace limaquota
