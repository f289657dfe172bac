#include "mount-helpers/home/lima_vms.hpp"

#include <fmt/core.h>

#include <utility>

#include "accounting/escape.hpp"
#include "accounting/names.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {

LimaVm find_lima_vm(const std::filesystem::path& home, const std::string& name) {
  std::string names;
  for (LimaVm& vm : lima_vms(home)) {
    if (vm.name == name) return std::move(vm);
    names += (names.empty() ? "" : ", ") + escape_name(vm.name);
  }
  throw Refusal(fmt::format("no VM '{}' in {}; there are: {}", escape_name(name), home.string(),
                            names.empty() ? "none" : names));
}

std::string quoted_names(const std::vector<LimaVm>& vms) {
  std::string names;
  for (const LimaVm& vm : vms) names += (names.empty() ? "" : " ") + shell_quoted(vm.name);
  return names;
}

}  // namespace limaquota
