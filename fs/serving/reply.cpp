#include "fs/serving/reply.hpp"

#include <linux/fuse.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>

namespace limaquota {
namespace {

using Part = std::span<const char>;

template <class Body>
Part part_of(const Body& body) {
  return {reinterpret_cast<const char*>(&body), sizeof body};
}

int write_reply(const RequestContext& context, int error, std::initializer_list<Part> body) {
  RequestContext::before_answer();
  fuse_out_header header{};
  header.unique = context.unique;
  header.error = -error;
  header.len = sizeof header;
  iovec parts[3] = {{&header, sizeof header}, {}, {}};
  int count = 1;
  for (const Part part : body) {
    header.len += static_cast<uint32_t>(part.size());
    parts[count++] = {const_cast<char*>(part.data()), part.size()};
  }
  if (context.entry != nullptr && context.entry->reply(parts, count)) return 0;
  return ::writev(context.device, parts, count) < 0 ? -errno : 0;
}

int send(fuse_req_t req, std::initializer_list<Part> body) {
  const int sent = write_reply(*RequestContext::current(), 0, body);
  fuse_reply_none(req);
  return sent;
}

// Seconds as the kernel has them: whole ones, and nanoseconds.
struct Validity {
  uint64_t seconds;
  uint32_t nanoseconds;
};

Validity validity(double seconds) {
  constexpr double longest = 1e9;
  const double valid = std::clamp(seconds, 0.0, longest);
  const auto whole = static_cast<uint64_t>(valid);
  return {whole, static_cast<uint32_t>((valid - static_cast<double>(whole)) * 1e9)};
}

fuse_attr attr_of(const struct stat& st) {
  fuse_attr attr{};
  attr.ino = st.st_ino;
  attr.size = static_cast<uint64_t>(st.st_size);
  attr.blocks = static_cast<uint64_t>(st.st_blocks);
  attr.atime = static_cast<uint64_t>(st.st_atim.tv_sec);
  attr.mtime = static_cast<uint64_t>(st.st_mtim.tv_sec);
  attr.ctime = static_cast<uint64_t>(st.st_ctim.tv_sec);
  attr.atimensec = static_cast<uint32_t>(st.st_atim.tv_nsec);
  attr.mtimensec = static_cast<uint32_t>(st.st_mtim.tv_nsec);
  attr.ctimensec = static_cast<uint32_t>(st.st_ctim.tv_nsec);
  attr.mode = st.st_mode;
  attr.nlink = static_cast<uint32_t>(st.st_nlink);
  attr.uid = st.st_uid;
  attr.gid = st.st_gid;
  attr.rdev = static_cast<uint32_t>(st.st_rdev);
  attr.blksize = static_cast<uint32_t>(st.st_blksize);
  return attr;
}

fuse_entry_out entry_out(const fuse_entry_param& entry) {
  const Validity name = validity(entry.entry_timeout);
  const Validity attributes = validity(entry.attr_timeout);
  fuse_entry_out out{};
  out.nodeid = entry.ino;
  out.generation = entry.generation;
  out.entry_valid = name.seconds;
  out.entry_valid_nsec = name.nanoseconds;
  out.attr_valid = attributes.seconds;
  out.attr_valid_nsec = attributes.nanoseconds;
  out.attr = attr_of(entry.attr);
  return out;
}

fuse_open_out open_out(const fuse_file_info& file, uint32_t flags) {
  fuse_open_out out{};
  out.fh = file.fh;
  out.open_flags =
      flags | (file.direct_io ? FOPEN_DIRECT_IO : 0U) | (file.keep_cache ? FOPEN_KEEP_CACHE : 0U);
  return out;
}

}  // namespace

void send_err(fuse_req_t req, int error) {
  (void)write_reply(*RequestContext::current(), error, {});
  fuse_reply_none(req);
}

void refuse(const RequestContext& context, int error) { (void)write_reply(context, error, {}); }

int send_entry(fuse_req_t req, const fuse_entry_param& entry) {
  const fuse_entry_out out = entry_out(entry);
  return send(req, {part_of(out)});
}

int send_attr(fuse_req_t req, const struct stat& st, double seconds) {
  const Validity valid = validity(seconds);
  fuse_attr_out out{};
  out.attr_valid = valid.seconds;
  out.attr_valid_nsec = valid.nanoseconds;
  out.attr = attr_of(st);
  return send(req, {part_of(out)});
}

int send_open(fuse_req_t req, const fuse_file_info& file, uint32_t flags) {
  const fuse_open_out out = open_out(file, flags);
  return send(req, {part_of(out)});
}

int send_create(fuse_req_t req, const fuse_entry_param& entry, const fuse_file_info& file, uint32_t flags) {
  const fuse_entry_out made = entry_out(entry);
  const fuse_open_out opened = open_out(file, flags);
  return send(req, {part_of(made), part_of(opened)});
}

int send_buf(fuse_req_t req, std::string_view data) { return send(req, {Part(data.data(), data.size())}); }

int send_xattr(fuse_req_t req, size_t size) {
  fuse_getxattr_out out{};
  out.size = static_cast<uint32_t>(size);
  return send(req, {part_of(out)});
}

int send_write(fuse_req_t req, size_t written) {
  fuse_write_out out{};
  out.size = static_cast<uint32_t>(written);
  return send(req, {part_of(out)});
}

int send_statfs(fuse_req_t req, const struct statvfs& host) {
  fuse_statfs_out out{};
  out.st.blocks = host.f_blocks;
  out.st.bfree = host.f_bfree;
  out.st.bavail = host.f_bavail;
  out.st.files = host.f_files;
  out.st.ffree = host.f_ffree;
  out.st.bsize = static_cast<uint32_t>(host.f_bsize);
  out.st.namelen = static_cast<uint32_t>(host.f_namemax);
  out.st.frsize = static_cast<uint32_t>(host.f_frsize);
  return send(req, {part_of(out)});
}

int send_lseek(fuse_req_t req, off_t position) {
  fuse_lseek_out out{};
  out.offset = static_cast<uint64_t>(position);
  return send(req, {part_of(out)});
}

}  // namespace limaquota
