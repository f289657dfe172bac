// The operation table: decodes a request, asks the filesystem, replies once, with what the filesystem below
// would say (P9).
#pragma once

#include <cstdint>
#include <exception>

#include "fs/handover/handles.hpp"
#include "fs/serving/filesystem.hpp"
#include "fs/serving/libfuse.hpp"
#include "fs/serving/reply.hpp"
#include "fs/serving/request_context.hpp"
#include "fs/system/log.hpp"

namespace limaquota {

// The table for fuse_session_new; its userdata is a Filesystem*.
fuse_lowlevel_ops operation_table();

// In a file handle, above the backing descriptor (fs/handover/notes.hpp): the kernel keeps what is read of
// this disk, so the backing's page cache need not.
inline constexpr uint64_t read_once = uint64_t{1} << 32;

// --- shared by the operations' files ---
namespace operations {

inline Filesystem& filesystem(fuse_req_t req) { return *static_cast<Filesystem*>(fuse_req_userdata(req)); }
// Of the request that this thread serves.
inline RequestContext& context() { return *RequestContext::current(); }
inline Replay& replay() { return context().replay; }

// The one wall between requests and exceptions: whatever escapes is logged and answered with EIO, and figures
// are in doubt from then on. `serve` must reply as its last act.
template <class Serve>
void guarded(fuse_req_t req, Serve serve) {
  try {
    serve(filesystem(req));
  } catch (const std::exception& thrown) {
    log_error("internal: {}", thrown.what());
    filesystem(req).doubt();
    send_err(req, EIO);
  }
}

inline void reply(fuse_req_t req, const Result<void>& result) {
  send_err(req, result ? 0 : result.error().value);
}

// The inode, or a reply with ESTALE.
template <class Serve>
void with_inode(fuse_req_t req, Filesystem& fs, fuse_ino_t id, Serve serve) {
  const InodePtr inode = fs.table.find(id);
  if (!inode) {
    send_err(req, ESTALE);
    return;
  }
  serve(*inode);
}

Caller caller_of(fuse_req_t req);
double attribute_seconds(const Inode& inode);
fuse_entry_param entry_param(const Entry& entry);
fuse_entry_param entry_param(const VirtualTree::Node& node);
void reply_entry(fuse_req_t req, Filesystem& fs, const Result<Entry>& entry);
// Whether the set-id bits of the file are to go before it is changed: the request says so, or, where requests
// cannot, its caller is not root.
void clear_set_id(fuse_req_t req, Filesystem& fs, Inode& inode, bool kill);
// Tells how the file is opened, and counts it. `fd` becomes the handle. The FOPEN_* flags of the reply beside
// those in `fi`.
uint32_t opened(Filesystem& fs, Inode& inode, Fd fd, fuse_file_info* fi);
// As FSYNC and FSYNCDIR say it.
inline DataPath::Synced synced(int data_only) {
  return data_only != 0 ? DataPath::Synced::data : DataPath::Synced::all;
}
// Closes the descriptor of a handle. False where that was done before.
bool close_handle(Filesystem& fs, uint64_t handle);

void add_name_operations(fuse_lowlevel_ops& table);
void add_data_operations(fuse_lowlevel_ops& table);
void add_directory_operations(fuse_lowlevel_ops& table);
void add_attribute_operations(fuse_lowlevel_ops& table);

}  // namespace operations
}  // namespace limaquota
