// The VMs of a Lima home, from Lima's own files. Source: Lima 2.2, pkg/limatype/filenames.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace limaquota {

struct LimaVm {
  std::string name;
  std::filesystem::path directory;  // <home>/<name>
  pid_t qemu = 0;                   // the process that qemu.pid names, where it is alive; else 0
  pid_t hostagent = 0;              // the same of ha.pid

  bool is_running() const { return qemu != 0 || hostagent != 0; }  // as Lima judges it
  std::filesystem::path qmp_socket() const { return directory / "qmp.sock"; }
};

// All of them, by name. A home that cannot be read has none. Thread safe.
std::vector<LimaVm> lima_vms(const std::filesystem::path& home);
// Those that run.
std::vector<LimaVm> running_vms(const std::filesystem::path& home);

}  // namespace limaquota
