// The VMs of a Lima home as the commands speak of them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fs/daemon/lima_vms.hpp"

namespace limaquota {

// Throws Refusal, naming those there are, where there is none of that name.
LimaVm find_lima_vm(const std::filesystem::path& home, const std::string& name);
// Their names as arguments of a command that can be pasted: "a 'b c'".
std::string quoted_names(const std::vector<LimaVm>& vms);

}  // namespace limaquota
