// libfuse's low level, by the version of its interface that we speak.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
