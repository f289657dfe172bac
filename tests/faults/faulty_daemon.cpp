// limaquota_faulty mount -f [-o OPTION]... [SOURCE] MOUNTPOINT: the daemon on system calls that fail as the
// file says that LIMAQUOTA_FAULTS names, seeded with LIMAQUOTA_FAULTS_SEED.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fs/mount_home.hpp"
#include "tests/faults/faulty_sys.hpp"

int main(int argc, char** argv) {
  const char* control_file = std::getenv("LIMAQUOTA_FAULTS");
  const char* seed = std::getenv("LIMAQUOTA_FAULTS_SEED");
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
  limaquota::FaultySys sys(control_file, seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10));
  return limaquota::mount_home(options, sys);
}
