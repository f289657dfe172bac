// The operations that Lima, ssh and QEMU do: as many work through the mount as without it.
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <set>
#include <sstream>

#include "tests/mount/harness.hpp"

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
  std::map<std::string, std::string> failing;  // name to detail
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
      outcome.failing[name] = detail.substr(0, 300);
    } else if (ok == "ok" && line.find("# skip") == std::string::npos) {
      outcome.ok.insert(name);
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
  const fs::path bare = scratch_->path() / "bare";
  fs::create_directory(bare);
  auto without_it = std::async(std::launch::async, [&] { return run_checks(quoted(bare)); });
  const Outcome with = run_checks(quoted(mount()) + " " + quoted(home().backing()));
  const Outcome without = without_it.get();
  std::set<std::string> ok = with.ok;
  for (const auto& [name, detail] : with.failing) {
    if (without.failing.contains(name)) continue;
    // A check looks at the mount and then at the backing: ext4 may write back between the two, which a second
    // look does not meet again.
    const std::string only = " --only '^" + name + "$'";
    const Outcome again = run_checks(quoted(mount()) + " " + quoted(home().backing()) + only);
    EXPECT_TRUE(again.ok.contains(name)) << name << detail;
    ok.insert(again.ok.begin(), again.ok.end());
  }
  for (const std::string& name : without.ok)
    EXPECT_TRUE(ok.contains(name) || not_forwarded.contains(name)) << name;
  EXPECT_GE(ok.size(), without.ok.size());
  std::printf("  lima_ops on %s: bare %s; mounted %s\n", filesystem().c_str(), without.summary.c_str(),
              with.summary.c_str());
}

LIMAQUOTA_ON_ALL(LimaOpsTest);

}  // namespace
}  // namespace limaquota::mount_tests
