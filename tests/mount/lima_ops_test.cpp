// The operations that Lima, ssh and QEMU do: as many work through the mount as without it.
#include <cstdlib>
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
  std::string failing;
  std::string summary;
};

Outcome run_checks(const std::string& arguments) {
  Outcome outcome;
  std::istringstream lines(run("LIMA_OPS_TIMEOUT=180 python3 " + quoted(script()) + " " + arguments).output);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("not ok "))
      outcome.failing += line + "\n";
    else if (line.starts_with("ok ") && line.find("# skip") == std::string::npos)
      outcome.ok.insert(line.substr(3));
    outcome.summary = line;
  }
  return outcome;
}

class LimaOpsTest : public MountTest {};

TEST_P(LimaOpsTest, AsManyWorkThroughTheMountAsWithoutIt) {
  if (script().empty()) GTEST_SKIP() << "lima_ops.py is not there: set LIMAQUOTA_SHARED";
  const fs::path bare = scratch_->path() / "bare";
  fs::create_directory(bare);
  const Outcome without = run_checks(quoted(bare));
  const Outcome with = run_checks(quoted(mount()) + " " + quoted(home().backing()));
  EXPECT_NE(with.summary.find("failed 0"), std::string::npos) << with.summary << "\n" << with.failing;
  for (const std::string& name : without.ok) EXPECT_TRUE(with.ok.contains(name)) << name;
  EXPECT_GE(with.ok.size(), without.ok.size());
  std::printf("  lima_ops: bare %s; mounted %s\n", without.summary.c_str(), with.summary.c_str());
}

LIMAQUOTA_ON_ALL(LimaOpsTest);

}  // namespace
}  // namespace limaquota::mount_tests
