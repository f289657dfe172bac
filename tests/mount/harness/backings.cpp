#include "tests/mount/harness/backings.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace limaquota::mount_tests {

namespace {

constexpr off_t image_bytes = 3 * static_cast<off_t>(GiB);

// How to make each filesystem; tmpfs needs no making.
std::string make_command(const Filesystem& filesystem) {
  if (filesystem == "ext4") return "mkfs.ext4 -q -F -b 4096";
  if (filesystem == "ext4_1k") return "mkfs.ext4 -q -F -b 1024";
  if (filesystem == "xfs") return "mkfs.xfs -q -m reflink=1";
  // It looks at the sources of all mounts, and gives up where it may not: an ordinary user's mount in place,
  // of another lane, is closed to root.
  return "unshare --mount --propagation private sh -c "
         "'umount --all --lazy --types fuse.limaquota; exec mkfs.btrfs -q \"$0\"'";
}

// A bare container's /dev may lack the nodes of loop devices. Which will be free when mount(8) looks for one,
// other lanes decide.
void ensure_loop_nodes() {
  for (unsigned number = 0; number < 256; ++number) {
    const std::string node = "/dev/loop" + std::to_string(number);
    if (::access(node.c_str(), F_OK) != 0) (void)::mknod(node.c_str(), S_IFBLK | 0600, makedev(7, number));
  }
}

// Mounts it at `place`; the error's text, or empty.
std::string mount_backing(const Filesystem& filesystem, const fs::path& place) {
  if (filesystem == "tmpfs")
    return ::mount("tmpfs", place.c_str(), "tmpfs", 0, "size=3g,mode=755") == 0 ? "" : std::strerror(errno);
  const fs::path image = place.string() + ".img";
  {
    const Fd fd(::open(image.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd || ::ftruncate(fd.get(), image_bytes) != 0) return image.string() + ": " + std::strerror(errno);
  }
  ensure_loop_nodes();
  const std::string type = filesystem == "ext4_1k" ? "ext4" : filesystem;
  const CommandResult made = run(make_command(filesystem) + " " + quoted(image) + " && mount -t " + type +
                                 " -o loop " + quoted(image) + " " + quoted(place));
  fs::remove(image);
  return made.status == 0 ? "" : made.output;
}

void make_directory(const fs::path& path, uid_t owner) {
  fs::create_directories(path);
  if (::chown(path.c_str(), owner, owner) != 0)
    throw std::system_error(errno, std::generic_category(), path.string());
}

bool prepare_backing(const fs::path& directory, const Filesystem& filesystem) {
  const fs::path place = directory / filesystem;
  const fs::path view = directory / view_directory_name / filesystem;
  fs::create_directories(place);
  fs::create_directories(view);
  std::string why = mount_backing(filesystem, place);
  if (why.empty() && ::mount(place.c_str(), view.c_str(), nullptr, MS_BIND, nullptr) != 0)
    why = std::string("bind mount: ") + std::strerror(errno);
  if (!why.empty()) {
    while (!why.empty() && why.back() == '\n') why.pop_back();
    std::ofstream(place.string() + ".why") << filesystem << ": " << why << "\n";
    std::fprintf(stderr, "%s cannot be tested: %s\n", filesystem.c_str(), why.c_str());
    return false;
  }
  make_directory(place / "root", 0);
  make_directory(place / "user", ordinary_user);
  return true;
}

}  // namespace

const std::vector<Filesystem>& all_filesystems() {
  static const std::vector<Filesystem> all = {"tmpfs", "ext4", "ext4_1k", "xfs", "btrfs"};
  return all;
}

std::vector<Filesystem> tested(const std::vector<Filesystem>& filesystems) {
  const char* named = std::getenv("LIMAQUOTA_FILESYSTEMS");
  if (named == nullptr) return filesystems;
  std::vector<Filesystem> chosen;
  std::istringstream words(named);
  for (Filesystem one; words >> one;) {
    if (std::find(filesystems.begin(), filesystems.end(), one) != filesystems.end()) chosen.push_back(one);
  }
  return chosen;
}

const char* user_directory_name() { return as_root() ? "root" : "user"; }

fs::path prepared_directory() {
  const char* directory = std::getenv("LIMAQUOTA_TEST_DIR");
  if (directory == nullptr) throw std::runtime_error("LIMAQUOTA_TEST_DIR is not set");
  return directory;
}

std::string why_not_prepared(const Filesystem& filesystem) {
  const fs::path directory = prepared_directory();
  if (fs::exists(directory / filesystem / user_directory_name())) return "";
  std::string why;
  std::getline(std::ifstream(directory / (filesystem + ".why")), why);
  return why.empty() ? filesystem + " was not prepared" : why;
}

bool prepare_backings(const fs::path& directory) {
  bool any = false;
  for (const Filesystem& filesystem : tested(all_filesystems()))
    any |= prepare_backing(directory, filesystem);
  return any;
}

namespace {

int run_tests_on_own_backings() {
  if (!as_root()) throw std::runtime_error("only root can prepare the backing filesystems");
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw std::system_error(errno, std::generic_category(), "a mount namespace");
  const char* scratch = std::getenv("LIMAQUOTA_SCRATCH");
  std::string pattern = std::string(scratch != nullptr ? scratch : "/var/tmp") + "/limaquota-tests.XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr || ::chmod(pattern.c_str(), 0755) != 0)
    throw std::system_error(errno, std::generic_category(), pattern);
  ::setenv("LIMAQUOTA_TEST_DIR", pattern.c_str(), 1);
  prepare_backings(pattern);
  const int status = RUN_ALL_TESTS();
  for (const Filesystem& filesystem : all_filesystems()) {
    ::umount2((fs::path(pattern) / view_directory_name / filesystem).c_str(), MNT_DETACH);
    ::umount2((fs::path(pattern) / filesystem).c_str(), MNT_DETACH);
  }
  fs::remove_all(pattern);
  return status;
}

}  // namespace

int main_of_tests(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  try {
    ::testing::InitGoogleTest(&argc, argv);
    const bool prepared = std::getenv("LIMAQUOTA_TEST_DIR") != nullptr;
    return ::testing::GTEST_FLAG(list_tests) || prepared ? RUN_ALL_TESTS() : run_tests_on_own_backings();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 2;
  }
}

}  // namespace limaquota::mount_tests
