// Replies to the kernel: libfuse decodes requests, and these answer them, by the way that each came. A reply
// of libfuse's own would go to /dev/fuse whatever the way was, and could not say all that a newer kernel
// understands; its hook for that (fuse_session_custom_io) is switched off in builds of 3.18. Format:
// <linux/fuse.h>.
//
// Each answers the request and frees it. All but the first return 0, or a negative errno: -ENOENT where the
// caller was interrupted and never learns of the reply. Thread safety: by the thread that serves the request.
#pragma once

#include <sys/statvfs.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "fs/serving/libfuse.hpp"
#include "fs/serving/request_context.hpp"

namespace limaquota {

// Only this: `error` is a positive errno, or 0.
void send_err(fuse_req_t req, int error);
int send_entry(fuse_req_t req, const fuse_entry_param& entry);
int send_attr(fuse_req_t req, const struct stat& st, double seconds);
// `flags`: FOPEN_* beside those that the file info says.
int send_open(fuse_req_t req, const fuse_file_info& file, uint32_t flags);
int send_create(fuse_req_t req, const fuse_entry_param& entry, const fuse_file_info& file, uint32_t flags);
int send_buf(fuse_req_t req, std::string_view data);
int send_xattr(fuse_req_t req, size_t size);
int send_write(fuse_req_t req, size_t written);
int send_statfs(fuse_req_t req, const struct statvfs& host);
int send_lseek(fuse_req_t req, off_t position);

// An error for a request that libfuse has not seen.
void refuse(const RequestContext& context, int error);

}  // namespace limaquota
