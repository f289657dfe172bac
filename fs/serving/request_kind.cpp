#include "fs/serving/request_kind.hpp"

#include "fs/serving/libfuse.hpp"

namespace limaquota {
namespace {

// libfuse hands on O_TMPFILE from 3.17 on.
template <class Table>
constexpr bool has_tmpfile = requires(Table table) {
  table.tmpfile;
};

}  // namespace

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

bool is_served(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_GETATTR:
    case FUSE_SETATTR:
    case FUSE_READLINK:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_STATFS:
    case FUSE_RELEASE:
    case FUSE_FSYNC:
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_FLUSH:
    case FUSE_INIT:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_CREATE:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
      return true;
    case FUSE_TMPFILE:
      return has_tmpfile<fuse_lowlevel_ops>;
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
