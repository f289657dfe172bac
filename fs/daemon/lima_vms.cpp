#include "fs/daemon/lima_vms.hpp"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "accounting/layout.hpp"

namespace limaquota {
namespace {

namespace fs = std::filesystem;

// The process that a pid file names, where it is alive; else 0.
pid_t live_process(const fs::path& pid_file) {
  std::error_code error;
  if (!fs::is_regular_file(pid_file, error)) return 0;  // opening a FIFO would wait
  std::ifstream file(pid_file);
  pid_t pid = 0;
  if (!(file >> pid) || pid <= 0) return 0;
  return ::kill(pid, 0) == 0 || errno == EPERM ? pid : 0;
}

}  // namespace

std::vector<LimaVm> lima_vms(const fs::path& home) {
  std::vector<LimaVm> vms;
  std::error_code error;
  for (fs::directory_iterator entry(home, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code none;
    if (!is_vm_name(name) || !entry->is_directory(none)) continue;
    vms.push_back({name, entry->path(), live_process(entry->path() / "qemu.pid"),
                   live_process(entry->path() / "ha.pid")});
  }
  std::sort(vms.begin(), vms.end(), [](const LimaVm& a, const LimaVm& b) { return a.name < b.name; });
  return vms;
}

std::vector<LimaVm> running_vms(const fs::path& home) {
  std::vector<LimaVm> vms = lima_vms(home);
  std::erase_if(vms, [](const LimaVm& vm) { return !vm.is_running(); });
  return vms;
}

}  // namespace limaquota
