#include "fs/system/libfuse_version.hpp"

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

namespace limaquota {

const char* libfuse_version() { return ::fuse_pkgversion(); }

}  // namespace limaquota
