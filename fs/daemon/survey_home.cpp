#include "fs/daemon/survey_home.hpp"

#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <memory>

#include "accounting/layout.hpp"
#include "fs/serving/filesystem.hpp"
#include "fs/system/log.hpp"
#include "fs/system/mountinfo.hpp"

namespace limaquota {
namespace {

// A mount that shows this tree elsewhere may be writing a limit file just now: its temporary file is not
// ours.
class ReadOnlySys : public Sys {
 public:
  Result<void> unlinkat(int, const char*, int) override { return Errno{EROFS}; }
};

std::string without_links(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
  return resolved ? resolved.get() : path;
}

}  // namespace

Result<Survey> survey_home(const std::string& home) {
  Survey survey;
  const LogDiversion diversion(
      [&](LogLevel, std::string_view message) { survey.notes.emplace_back(message); });
  ReadOnlySys sys;
  auto root = sys.openat(AT_FDCWD, home.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (!root) return root.error();
  FilesystemOptions options;
  const std::string path = without_links(home);
  options.homes = {path, home};
  if (const auto mount = mount_of(path)) options.backing_options = mount->super_options;
  const auto notes = Notes::unshared();
  Filesystem fs(sys, *notes, std::move(*root), options);
  fs.ledger.set_time(std::time(nullptr));
  if (const auto loaded = fs.limits.load(); !loaded) return loaded.error();
  fs.limits.apply(shared_account);
  if (const auto scanned = fs.tree.scan.run(); !scanned) return scanned.error();
  survey.snapshot = fs.ledger.snapshot(fs.backing.free_bytes());
  return survey;
}

}  // namespace limaquota
