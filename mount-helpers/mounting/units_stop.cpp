// limaquota __stop-vms --home DIR: what the unit of `limaquota enable` runs before it unmounts.
#include <fmt/core.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

// Stops a VM without loss where that can be, else as Lima does it: the mount is about to go in any case.
void stop_vm(const std::string& home, const std::string& name) {
  RunOptions options;
  options.show = true;
  options.environment = {"LIMA_HOME=" + home};
  if (run_program({real_path("/proc/self/exe"), "stop", name, "--home", home}, options).ok()) return;
  run_program({"limactl", "stop", name}, options);
}

// All at once: each may take minutes.
void stop_vms(const std::string& given) {
  const std::string home = real_path(choose_home(given));
  if (!is_mountpoint(home)) return;  // VMs that run now do not run from it
  refuse_hung(home);
  std::vector<std::jthread> threads;
  for (const LimaVm& vm : running_vms(home)) threads.emplace_back(stop_vm, home, vm.name);
  threads.clear();
  const std::string left = quoted_names(running_vms(home));
  if (!left.empty()) throw Refusal(fmt::format("VMs still run from {}: limactl stop --force {}", home, left));
}

}  // namespace

void add_stop_vms(Program& program) {
  Command command = program.hidden_command("__stop-vms", "Stop all VMs that run from the mount");
  auto home = std::make_shared<std::string>();
  add_home_option(command, *home);
  program.on(command, [home] {
    stop_vms(*home);
    return 0;
  });
}

}  // namespace limaquota
