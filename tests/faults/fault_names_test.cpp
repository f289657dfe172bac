// Faults under operations on names and attributes: the figures must come right by themselves.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <random>
#include <set>

#include "tests/faults/fault_fixture.hpp"

namespace limaquota::fault_tests {
namespace {

using namespace mount_tests;

// Random operations on a few names in a few directories of several accounts.
class Operations {
 public:
  Operations(fs::path home, uint64_t seed) : home_(std::move(home)), random_(seed) {}

  // What was done, and its errno, for messages.
  std::string one() {
    const std::string a = name();
    const std::string b = name();
    const char* from = a.c_str();
    const char* to = b.c_str();
    switch (below(10)) {
      case 0:
      case 1:
        return told("create " + a, create(a));
      case 2:
        return told("mkdir " + a, errno_of(::mkdir(path(from), 0755)));
      case 3:
        return told("symlink " + a, errno_of(::symlink(std::string(100, 'x').c_str(), path(from))));
      case 4:
        return told("link " + a + " " + b, errno_of(::link(path(from), path2(to))));
      case 5:
        return told("unlink " + a, errno_of(::unlink(path(from))));
      case 6:
        return told("rmdir " + a, errno_of(::rmdir(path(from))));
      case 7:
        return told("rename " + a + " " + b, errno_of(::rename(path(from), path2(to))));
      case 8:
        return told("exchange " + a + " " + b,
                    errno_of(::renameat2(AT_FDCWD, path(from), AT_FDCWD, path2(to), RENAME_EXCHANGE)));
      default:
        break;
    }
    const std::string value(200 + below(1500), 'v');
    if (below(2) == 0) return told("removexattr " + a, errno_of(::lremovexattr(path(from), "trusted.v")));
    return told("setxattr " + a,
                errno_of(::lsetxattr(path(from), "trusted.v", value.data(), value.size(), 0)));
  }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }
  const char* path(const char* relative) { return (path_ = home_ / relative).c_str(); }
  const char* path2(const char* relative) { return (path2_ = home_ / relative).c_str(); }
  static std::string told(const std::string& what, int error) { return what + ": " + std::to_string(error); }

  std::string name() {
    static const char* const directories[] = {"one", "two", "_config", "_disks/data"};
    std::string text = directories[below(4)];
    while (below(3) == 0) text += "/d" + std::to_string(below(2));
    // Now and then long ones, so that directories grow.
    const uint64_t kind = below(8);
    if (kind < 2) return text + "/d" + std::to_string(below(2));
    if (kind == 2) return text + "/" + std::string(200, 'n') + std::to_string(below(100));
    return text + "/f" + std::to_string(below(6));
  }

  int create(const std::string& relative) {
    const Fd fd(::open(path(relative.c_str()), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    if (!fd) return errno;
    const std::string data(below(20000), 'd');
    return errno_of(::pwrite(fd.get(), data.data(), data.size(), 0));
  }

  fs::path home_, path_, path2_;
  std::mt19937_64 random_;
};

class FaultyNames : public FaultTest {
 protected:
  // Where LIMAQUOTA_FAULT_TRACE is set: tells after which operation a figure went wrong and stayed so.
  bool still_exact(const std::string& what) {
    for (const std::string& account : home().accounts()) {
      if (home().comes_to_rest(account)) continue;
      ADD_FAILURE() << account << " is wrong after " << what << ": used " << home().used(account) << ", du "
                    << home().du(account);
      return false;
    }
    return true;
  }
};

TEST_P(FaultyNames, LeavesFiguresRightThoughNobodyLooks) {
  home().make_vm("one");
  home().make_vm("two");
  for (const char* directory : {"_config", "_disks", "_disks/data"}) {
    ASSERT_EQ(errno_of(::mkdir((home().mount() / directory).c_str(), 0755)), 0);
  }
  home().set_limit("one", "64MiB");
  Operations random(home().mount(), seed());
  const bool trace = environment_number("LIMAQUOTA_FAULT_TRACE", 0) != 0;
  faults_on();
  for (uint64_t i = 0; i < operations() * 3; ++i) {
    const std::string what = random.one();
    if (trace && !still_exact(std::to_string(i) + ", " + what)) break;
  }
  faults_off();
  expect_figures_come_right();
  for (uint64_t i = 0; i < operations(); ++i) (void)random.one();
  expect_figures_come_right();
}

const std::vector<std::string> name_faults = {
    "nothing:EIO:1",   "openat_path:EIO:20", "openat_create:EIO:4", "openat_read:EIO:4", "fstat:EIO:20",
    "fstatat:EIO:4",   "mkdirat:EIO:2",      "symlinkat:EIO:2",     "linkat:EIO:2",      "unlinkat:EIO:2",
    "renameat2:EIO:2", "setxattr:EIO:2",     "setxattr:late EIO:2", "getdents:EIO:2",    "readlink:EIO:2",
    "pread:EIO:2",     "ftruncate:EIO:2"};

INSTANTIATE_TEST_SUITE_P(Fault, FaultyNames, ::testing::ValuesIn(on_all(name_faults)), name_of);

class FaultyListing : public FaultTest {};

TEST_P(FaultyListing, HidesNoNameThatCannotBeLookedAt) {
  const fs::path vm = home().make_vm("one");
  std::set<std::string> names{"lima.yaml"};
  for (int i = 0; i < 100; ++i) {
    names.insert("file" + std::to_string(i));
    ASSERT_EQ(write_text(vm / ("file" + std::to_string(i)), "text"), 0);
  }
  faults_on();
  for (int i = 0; i < 5; ++i) {
    std::set<std::string> listed;
    for (const auto& entry : fs::directory_iterator(vm)) listed.insert(entry.path().filename());
    EXPECT_EQ(listed, names);
  }
  faults_off();
}

INSTANTIATE_TEST_SUITE_P(Fault, FaultyListing, ::testing::ValuesIn(on_all({"openat_path:EIO:4"})), name_of);

}  // namespace
}  // namespace limaquota::fault_tests
