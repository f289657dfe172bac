// Which libfuse is loaded, for those who do not link it.
#pragma once

namespace limaquota {

// "3.14.0". Thread safe.
const char* libfuse_version();

}  // namespace limaquota
