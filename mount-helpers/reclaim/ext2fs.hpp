// The headers of libext2fs, which are made for C. They define macros that are names of C++ as well: undefined
// here.
#pragma once

#include <ext2fs/ext2fs.h>

extern "C" {
#include <et/com_err.h>  // knows nothing of C++
}

// Of e2fsprogs 1.47.2 and later: std::clamp could be neither declared nor called after it.
#undef clamp
