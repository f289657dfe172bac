#include "fs/serving/request_kind.hpp"

namespace limaquota {

bool kills_set_id(const char* data, size_t size) {
  switch (reinterpret_cast<const fuse_in_header*>(data)->opcode) {
    case FUSE_WRITE: {
      const auto* body = body_of<fuse_write_in>(data, size);
      return body != nullptr && (body->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    }
    case FUSE_SETATTR: {
      const auto* body = body_of<fuse_setattr_in>(data, size);
      return body != nullptr && (body->valid & FATTR_KILL_SUIDGID) != 0;
    }
    case FUSE_OPEN: {
      const auto* body = body_of<fuse_open_in>(data, size);
      return body != nullptr && (body->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
    }
    default:
      return false;
  }
}

bool may_not_be_repeated(uint32_t opcode) {
  switch (opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
      return true;
    default:
      return false;
  }
}

bool never_waits(uint32_t opcode) {
  switch (opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
    case FUSE_INIT:
    case FUSE_DESTROY:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
      return true;
    default:
      return false;
  }
}

}  // namespace limaquota
