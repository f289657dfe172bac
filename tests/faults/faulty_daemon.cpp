// limaquota_faulty mount -f [-o OPTION]... [SOURCE] MOUNTPOINT: the daemon on system calls that fail as the
// file says that LIMAQUOTA_FAULTS names, seeded with LIMAQUOTA_FAULTS_SEED.
// A copy of it by another name, which has taken over, adds ".NAME" to that of the file.
// limaquota_faulty upgrade MOUNTPOINT: asks a daemon to go on as this binary; 0 where it does.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "fs/daemon/mount_home.hpp"
#include "fs/daemon/upgrade.hpp"
#include "tests/faults/faulty_sys.hpp"

namespace {

int upgrade_mount(const char* mountpoint) {
  for (const limaquota::Daemon& daemon : limaquota::daemons()) {
    if (daemon.notes != nullptr && daemon.mountpoint == mountpoint)
      return static_cast<int>(limaquota::upgrade(daemon, [] {}));
  }
  return 2;
}

limaquota::Seams faults(const std::string& control_file, uint64_t seed) {
  limaquota::Seams seams;
  seams.make_sys = [=](const limaquota::Notes& notes) {
    return std::make_unique<limaquota::FaultySys>(control_file, seed, notes);
  };
  return seams;
}

}  // namespace

int main(int argc, char** argv) {
  const char* control_file = std::getenv("LIMAQUOTA_FAULTS");
  const char* seed = std::getenv("LIMAQUOTA_FAULTS_SEED");
  const uint64_t seed_number = seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10);
  if (argc == 3 && std::strcmp(argv[1], "upgrade") == 0) return upgrade_mount(argv[2]);
  if (control_file != nullptr && argc == 4 && std::strcmp(argv[1], limaquota::take_over_command) == 0) {
    const int notes = std::atoi(argv[2]);
    if (std::strcmp(argv[3], limaquota::try_option) == 0) return limaquota::try_notes(notes);
    const std::string name = std::filesystem::read_symlink("/proc/self/exe").filename();
    const std::string suffix = name == "limaquota_faulty" ? "" : "." + name;
    return limaquota::take_over_home(notes, faults(control_file + suffix, seed_number));
  }
  if (control_file == nullptr || argc < 4 || std::strcmp(argv[1], "mount") != 0) {
    std::fprintf(stderr, "usage: LIMAQUOTA_FAULTS=FILE %s mount -f [-o OPTION]... [SOURCE] MOUNTPOINT\n",
                 argv[0]);
    return 2;
  }
  limaquota::MountOptions options;
  options.foreground = true;
  for (int i = 2; i < argc; ++i) {
    if (std::strcmp(argv[i], "-f") == 0) continue;
    if (std::strcmp(argv[i], "-o") == 0 && i + 1 < argc) {
      options.flags.emplace_back(argv[++i]);
      continue;
    }
    if (options.source.empty()) options.source = argv[i];
    options.mountpoint = argv[i];
  }
  return limaquota::mount_home(options, faults(control_file, seed_number));
}
