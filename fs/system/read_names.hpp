// The names in a directory of the backing tree.
#pragma once

#include <string>
#include <vector>

#include "fs/system/sys.hpp"

namespace limaquota {

// All names but "." and "..". `dir` is a real descriptor at its beginning.
Result<std::vector<std::string>> read_names(Sys& sys, int dir);

}  // namespace limaquota
