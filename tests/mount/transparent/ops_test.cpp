// Transparent (P9): the operations that Lima, ssh and QEMU do: as many work through the mount as without it.
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <set>
#include <sstream>

#include "tests/mount/harness/harness.hpp"

namespace limaquota::mount_tests {
namespace {

// lima_ops.py beside the project, or an empty path.
fs::path script() {
  const char* named = std::getenv("LIMAQUOTA_LIMA_OPS");
  const char* shared = std::getenv("LIMAQUOTA_SHARED");
  const fs::path path = named != nullptr    ? fs::path(named)
                        : shared != nullptr ? fs::path(shared) / "checks" / "lima_ops.py"
                                            : fs::path(LIMAQUOTA_SOURCE_DIR) / "../shared/checks/lima_ops.py";
  return fs::exists(path) ? path : fs::path();
}

struct Outcome {
  std::set<std::string> ok;
  std::map<std::string, std::string> not_ok;  // name to detail; failing or skipped
  std::string summary;
};

Outcome run_checks(const std::string& arguments) {
  Outcome outcome;
  std::istringstream lines(run("LIMA_OPS_TIMEOUT=180 python3 " + quoted(script()) + " " + arguments).output);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string ok, name, detail;
    words >> ok >> name;
    if (ok == "not") {
      words >> name;
      std::getline(words, detail);
      outcome.not_ok[name] = detail.substr(0, 300);
    } else if (ok == "ok" && line.find("# skip") == std::string::npos) {
      outcome.ok.insert(name);
    } else if (ok == "ok") {
      outcome.not_ok[name] = " is skipped";
    }
    outcome.summary = line;
  }
  return outcome;
}

class LimaOpsTest : public MountTest {
 protected:
  // All that a mount can do: what other users, devices and set-uid programs need is root's to give.
  MountSetup setup() const override {
    if (!as_root()) return {};
    return {.in_place = false, .options = {"allow_other", "dev", "suid"}};
  }
};

// The kernel hands on neither O_TMPFILE where libfuse is older than 3.17 nor collapsing and inserting ranges;
// callers are told EOPNOTSUPP and do without.
const std::set<std::string> not_forwarded = {"o_tmpfile", "collapse_insert_range", "reflink_ioctl"};

TEST_P(LimaOpsTest, AsManyWorkThroughTheMountAsWithoutIt) {
  if (script().empty()) GTEST_SKIP() << "lima_ops.py is not there: set LIMAQUOTA_SHARED";
  if (slow_build() && filesystem() != "ext4") GTEST_SKIP() << "under a sanitizer one filesystem has to do";
  const Outcome with = run_checks(quoted(mount()) + " " + quoted(home().backing()));
  EXPECT_FALSE(with.ok.empty()) << with.summary;
  std::printf("  lima_ops on %s: %s\n", filesystem().c_str(), with.summary.c_str());
  // What does not work here must not work without the mount either. Not at the same time: some checks look at
  // the free space of the filesystem.
  if (with.not_ok.empty()) return;
  std::string names;
  for (const auto& [name, detail] : with.not_ok) names += (names.empty() ? "" : "|") + name;
  const fs::path bare = scratch_->path() / "bare";
  fs::create_directory(bare);
  const Outcome without = run_checks(quoted(bare) + " --only '^(" + names + ")$'");
  for (const std::string& name : without.ok)
    EXPECT_TRUE(not_forwarded.contains(name)) << name << with.not_ok.at(name);
}

LIMAQUOTA_ON_ALL(LimaOpsTest);

}  // namespace
}  // namespace limaquota::mount_tests
