// The host loses its power while limits are set and VMs renamed (P10): what the disk holds at that moment,
// mounted again, has each limit whole, and figures as du.
//
// The home's own filesystem lies in an image; a cut is a clone of the image, which is made in one moment
// (FICLONE): what the filesystem wrote until then, in its order. What a disk keeps in a cache of its own and
// loses is not tried.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "tests/mount/harness/own_filesystem.hpp"

namespace limaquota::mount_tests {
namespace {

class PowerLossTest : public OwnFilesystemTest {
 protected:
  static constexpr int vms = 3;
  static constexpr char mark[] = "vm";  // a file in each VM: which one it is, whatever its name

  std::string own_filesystem() override { return on_loop("mkfs." + std::string(inner()) + " -q"); }
  virtual const char* inner() const = 0;

  void SetUp() override {
    OwnFilesystemTest::SetUp();
    if (!home_) return;
    for (int i = 0; i < vms; ++i) {
      names_[i] = fmt::format("vm{}", i);
      ASSERT_EQ(write_text(home().make_vm(names_[i]) / mark, std::to_string(i)), 0);
      home().set_limit(names_[i], fmt::format("limit {}\n", limit_of(i, 0)));
    }
    home().sync_backing();
  }

  // Of VM i the limits are those whose remainder is i.
  static uint64_t limit_of(int vm, uint64_t round) {
    return (10 + round % 50) * MiB + static_cast<uint64_t>(vm) * 4 * KiB;
  }

  // Changes limits and names until it is told to end.
  void work() {
    std::minstd_rand random(static_cast<unsigned>(environment_number("LIMAQUOTA_SEED", 1)));
    for (uint64_t round = 1; !done_ && !HasFailure(); ++round, ++rounds_) {
      const int vm = static_cast<int>(random() % vms);
      std::string& name = names_[vm];
      switch (random() % 4) {
        case 0: {
          home().set_limit(name, fmt::format("limit {}\n", limit_of(vm, round)));
          break;
        }
        case 1: {
          const std::string new_name = fmt::format("vm{}-{}", vm, round % 7);
          if (new_name == name) break;
          ASSERT_EQ(errno_of(::rename((mount() / name).c_str(), (mount() / new_name).c_str())), 0);
          name = new_name;
          break;
        }
        case 2: {
          const fs::path path = mount() / name / fmt::format("file{}", random() % 5);
          const Fd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
          ASSERT_EQ(write_range(file.get(), 0, (random() % 64) * KiB).error, 0);
          break;
        }
        default:
          (void)::unlink((mount() / name / fmt::format("file{}", random() % 5)).c_str());
      }
    }
  }

  // The image as it is in this moment.
  void cut(const fs::path& to) {
    const Fd image = open_file(scratch_->path() / "image", O_RDONLY);
    const Fd clone = open_file(to, O_RDWR | O_CREAT | O_TRUNC);
    ASSERT_EQ(errno_of(::ioctl(clone.get(), FICLONE, image.get())), 0);
  }

  // What holds of a home after the cut, through a mount of its own.
  void judge(const fs::path& home, const fs::path& shown) {
    std::set<std::string> marks;
    for (const auto& entry : fs::directory_iterator(home)) {
      const std::string name = entry.path().filename();
      if (!fs::exists(entry.path() / mark)) continue;
      const int vm = std::stoi(read_text(entry.path() / mark));
      EXPECT_TRUE(marks.insert(std::to_string(vm)).second) << "VM " << vm << " is there twice";
      std::istringstream usage(read_text(shown / ".usage" / name));
      std::map<std::string, std::string> figures;
      for (std::string key, value; usage >> key && std::getline(usage >> std::ws, value);)
        figures[key] = value;
      ASSERT_NE(figures["limit"], "max") << name << " has lost its limit";
      const uint64_t limit = std::stoull(figures["limit"]);
      EXPECT_EQ(limit % MiB, static_cast<uint64_t>(vm) * 4 * KiB) << name << " has another's limit";
      EXPECT_NE(figures["state"], "damaged") << name;
      EXPECT_EQ(std::stoull(figures["used"]), du(entry.path())) << name;
    }
    EXPECT_EQ(marks.size(), static_cast<size_t>(vms));
    // Nor does any stay for a name that is no more.
    const fs::directory_iterator files(home / ".quota");
    EXPECT_EQ(std::distance(begin(files), end(files)), vms);
  }

  void mount_and_judge(const fs::path& image) {
    const fs::path after = scratch_->path() / "after";
    const fs::path shown = scratch_->path() / "shown";
    for (const fs::path& directory : {after, shown}) fs::create_directories(directory);
    // The clone has the identity of a filesystem that is mounted.
    const std::string option = std::string(inner()) == "xfs" ? "-o loop,nouuid " : "-o loop ";
    const CommandResult mounted = run("mount " + option + quoted(image) + " " + quoted(after));
    ASSERT_EQ(mounted.status, 0) << mounted.output;
    const CommandResult served =
        run(quoted(limaquota_binary()) + " mount " + quoted(after) + " " + quoted(shown));
    EXPECT_EQ(served.status, 0) << served.output;
    if (served.status == 0) {
      judge(after, shown);
      EXPECT_EQ(run(quoted(limaquota_binary()) + " umount " + quoted(shown)).status, 0);
    }
    EXPECT_TRUE(eventually([&] { return ::umount2(after.c_str(), 0) == 0; }));
  }

  void lose_power_again_and_again() {
    const uint64_t cuts = environment_number("LIMAQUOTA_POWER_CUTS", slow_build() ? 3 : 8);
    const fs::path image = scratch_->path() / "cut";
    std::minstd_rand random(static_cast<unsigned>(environment_number("LIMAQUOTA_SEED", 1)));
    for (uint64_t i = 0; i < cuts && !HasFailure(); ++i) {
      done_ = false;
      std::thread worker([this] { work(); });
      const uint64_t until = rounds_ + 5 + random() % 60;
      EXPECT_TRUE(eventually([&] { return rounds_ >= until || HasFailure(); }));
      cut(image);
      done_ = true;
      worker.join();
      mount_and_judge(image);
    }
    fs::remove(image);
  }

  std::string names_[vms];
  std::atomic<bool> done_ = false;
  std::atomic<uint64_t> rounds_ = 0;
};

class Ext4PowerLossTest : public PowerLossTest {
  const char* inner() const override { return "ext4"; }
};
TEST_P(Ext4PowerLossTest, LimitsAreWholeAndStayWithTheirVms) { lose_power_again_and_again(); }
LIMAQUOTA_ON(Ext4PowerLossTest, "xfs");

class XfsPowerLossTest : public PowerLossTest {
  const char* inner() const override { return "xfs"; }
};
TEST_P(XfsPowerLossTest, LimitsAreWholeAndStayWithTheirVms) { lose_power_again_and_again(); }
LIMAQUOTA_ON(XfsPowerLossTest, "xfs");

}  // namespace
}  // namespace limaquota::mount_tests
