// What every mount test stands on: backing filesystems, a Lima home with a real limaquota mounted over it,
// and the checks that end each test.
//
// The binary runs as root, or again as an ordinary user, who then mounts through fusermount3 and does the
// operations himself: who mounts is the process's own uid. The backing filesystems are prepared by root
// beforehand (see mount_tests_main.cpp).
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/environment.hpp"
#include "tests/mount/harness/files.hpp"

namespace limaquota::mount_tests {

namespace fs = std::filesystem;

// One of "tmpfs", "ext4", "ext4_1k", "xfs", "btrfs": about 3 GiB, nothing on it but what the tests make, so
// the default host reserve of 1 GiB leaves room.
using Filesystem = std::string;
const std::vector<Filesystem>& all_filesystems();
// Those of them to be tested: the ones that LIMAQUOTA_FILESYSTEMS names (blanks between), or all where it is
// not set.
std::vector<Filesystem> tested(const std::vector<Filesystem>& filesystems);

bool as_root();
// Whether all tests mount so: a lane of its own.
bool over_io_uring();
// True where the daemon under test was compiled with that sanitizer: "asan", "ubsan" or "tsan". The tests
// themselves need none, so that they are compiled once.
bool sanitized_by(const std::string& sanitizer);
// True where it was with any, and a test that merely takes long should do less.
bool slow_build();

// A directory of a test's own on a backing filesystem, removed at the end.
class Scratch {
 public:
  explicit Scratch(const Filesystem& filesystem);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const fs::path& path() const { return path_; }
  // The same directory through a second mount of the backing filesystem, where nothing ever covers it.
  const fs::path& view() const { return view_; }

 private:
  fs::path path_;
  fs::path view_;
};

// The limaquota command under test.
fs::path limaquota_binary();
// The command line that mounts `source` at `mountpoint` in the foreground, quoted for run().
std::string mount_command(const fs::path& source, const fs::path& mountpoint,
                          const std::vector<std::string>& options = {});

struct MountSetup {
  bool in_place = false;             // cover the home itself; else it is shown at a second directory
  std::vector<std::string> options;  // each handed on as `-o OPTION`
};

// A Lima home and the daemon that serves it. Everything that the tests do to files goes through mount(); only
// what the backing is asked for goes through backing().
// Thread safety: usage(), used(), du and limits may be called from any thread; the rest from the test's.
class MountedHome {
 public:
  // Mounts scratch.path()/home, an existing directory, and waits until `.usage` answers; throws where it does
  // not.
  MountedHome(Scratch& scratch, const MountSetup& setup);
  // Kills the daemon and detaches the mount where the test did not unmount.
  ~MountedHome();
  MountedHome(const MountedHome&) = delete;
  MountedHome& operator=(const MountedHome&) = delete;

  const fs::path& mount() const { return mount_; }      // the Lima home as its users see it
  const fs::path& backing() const { return backing_; }  // the same tree underneath, never covered
  pid_t daemon() const { return daemon_; }              // the supervisor
  pid_t worker() const;                                 // the process that serves now
  std::string log() const;
  // A line of the daemon's log that matches is expected; any other line fails the test at its end.
  void expect_log(const std::string& regex) { expected_log_.push_back(regex); }

  // `.usage/<account>`, key to value; "disk" lines are joined with newlines under the key "disk".
  std::map<std::string, std::string> usage(const std::string& account) const;
  // One figure of it as a number; `max` is UINT64_MAX. Missing or no number: fails the test and gives 0.
  uint64_t figure(const std::string& account, const std::string& key) const;
  uint64_t used(const std::string& account) const { return figure(account, "used"); }
  std::string state(const std::string& account) const { return usage(account)["state"]; }

  // Writes `.quota/<account>` in one write and closes it; 0 or the errno of whichever call failed.
  [[nodiscard]] int try_set_limit(const std::string& account, const std::string& text) const;
  // The same, which must succeed. `set_limit("vm", "limit 64MiB\ncontrol_reserve 1MiB\n")`, `set_limit("vm",
  // "max")`.
  void set_limit(const std::string& account, const std::string& text) const;

  // Makes `<name>/` through the mount, with a `lima.yaml` in it, and gives its path.
  fs::path make_vm(const std::string& name) const;

  // What du says of an account's directories in the backing: the VM's and its attached disks', or
  // `_disks/<name>`, or for `_shared` all the rest.
  uint64_t du(const std::string& account) const;
  // The directories of an account in the backing; of `_shared` none.
  std::vector<fs::path> directories(const std::string& account) const;
  // Every account that the home has: VM directories, detached disks, `_shared`.
  std::vector<std::string> accounts() const;
  // Whether used == du for the account, reserved or not.
  bool is_at_rest(const std::string& account) const { return used(account) == du(account); }
  // Waits until it is; true where that came.
  bool comes_to_rest(const std::string& account) const;
  // used == du for every account; fails the test otherwise. Files unlinked but open must have been closed.
  void expect_exact() const;
  // syncfs of the backing filesystem: what it allocates late is allocated now.
  void sync_backing() const;
  // Descriptors of the daemon that point to files.
  size_t backing_descriptors() const;
  // Has the kernel forget the inodes of this mount that nobody uses, and of no other. Only root may; nothing
  // happens where somebody else asks.
  void forget_unused() const;
  // f_bavail of the backing filesystem, in bytes.
  uint64_t host_free() const;

  // Unmounts (umount as root, fusermount3 -u as a user), where that was not done already, and waits for the
  // daemon; its exit status (128 + signal where one ended it). The mountpoint is no mount any more. The
  // second time it only takes away a mount whose daemon was killed.
  int unmount();
  // Sends a signal to the daemon and waits for it; as unmount().
  int end_with_signal(int signal);
  // Unmounts and mounts again with other or the same options; the log goes on.
  void remount();
  void remount(const MountSetup& setup);
  bool is_mounted() const;

  // The checks that end every test: used == du, no descriptor leaked, log clean, unmounts, daemon exits with
  // 0, nothing left mounted.
  void finish();

 private:
  void start();
  void detach();
  int wait_for_daemon();
  void expect_no_leaked_descriptors() const;
  void expect_clean_log() const;

  Scratch& scratch_;
  MountSetup setup_;
  fs::path mount_;
  fs::path backing_;
  fs::path log_;
  pid_t daemon_ = -1;
  size_t descriptors_at_start_ = 0;
  std::vector<std::string> expected_log_;
};

// Samples du of an account from its start to stop(), while only growing operations run (a sum taken while
// files are freed or renamed counts some twice; what a file gives back that was preallocated for it is not).
class OvershootWatch {
 public:
  OvershootWatch(const MountedHome& home, std::string account);
  ~OvershootWatch();
  // Takes one more sample after a sync of the backing and gives the largest.
  uint64_t stop();
  uint64_t samples() const { return samples_; }

 private:
  void run();
  void sample();

  const MountedHome& home_;
  std::string account_;
  std::atomic<bool> ending_ = false;
  std::atomic<uint64_t> largest_ = 0;
  std::atomic<uint64_t> samples_ = 0;
  std::thread thread_;
};

// The fixture: a fresh Lima home on the parameter's filesystem, mounted; finish() at the end. A test that
// wants the home prepared before the mount, or other options, overrides prepare() and setup().
class MountTest : public ::testing::TestWithParam<Filesystem> {
 protected:
  void SetUp() override;
  void TearDown() override;
  // Called before the mount with the bare home.
  virtual void prepare(const fs::path& /*home*/) {}
  virtual MountSetup setup() const { return {}; }

  MountedHome& home() { return *home_; }
  const fs::path& mount() { return home_->mount(); }
  const Filesystem& filesystem() const { return GetParam(); }
  bool is_ext4() const { return filesystem().starts_with("ext4"); }
  bool has_reflinks() const { return filesystem() == "xfs" || filesystem() == "btrfs"; }
  bool has_zero_range() const { return filesystem() != "tmpfs"; }
  // The backing filesystem's block.
  uint64_t block() const { return filesystem() == "ext4_1k" ? 1024 : 4096; }

  std::unique_ptr<Scratch> scratch_;
  std::unique_ptr<MountedHome> home_;
};

// Instantiates a suite on all filesystems, or on those named: LIMAQUOTA_ON(CloneTest, "xfs", "btrfs").
#define LIMAQUOTA_ON_ALL(Suite)                                                                           \
  INSTANTIATE_TEST_SUITE_P(                                                                               \
      On, Suite,                                                                                          \
      ::testing::ValuesIn(::limaquota::mount_tests::tested(::limaquota::mount_tests::all_filesystems())), \
      [](const auto& test) { return test.param; })
#define LIMAQUOTA_ON(Suite, ...)                                                                            \
  INSTANTIATE_TEST_SUITE_P(On, Suite, ::testing::ValuesIn(::limaquota::mount_tests::tested({__VA_ARGS__})), \
                           [](const auto& test) { return test.param; })

}  // namespace limaquota::mount_tests
