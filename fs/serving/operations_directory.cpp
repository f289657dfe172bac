// Reading directories. The offsets are the backing filesystem's own; the two virtual trees come after the
// root's last entry, at offsets that no filesystem uses.
#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "accounting/layout.hpp"
#include "accounting/mutex.hpp"
#include "fs/serving/operations.hpp"

namespace limaquota::operations {
namespace {

constexpr off_t last_backing_offset = 0x7ffffffffffffff0;
constexpr off_t usage_offset = 0x7ffffffffffffff1;
constexpr off_t quota_offset = 0x7ffffffffffffff2;
constexpr mode_t type_of(unsigned char d_type) { return static_cast<mode_t>(d_type) << 12; }

// The reply of one readdir, filled until it is full.
class Listing {
 public:
  Listing(fuse_req_t req, Filesystem& fs, InodePtr directory, size_t size, bool plus)
      : req_(req), fs_(fs), directory_(std::move(directory)), buffer_(size), plus_(plus) {}

  // False where the entry does not fit any more.
  bool add(const char* name, NodeId id, mode_t type, off_t next) {
    struct stat st {};
    st.st_ino = id;
    st.st_mode = type;
    if (!plus_)
      return put([&](char* at, size_t room) { return fuse_add_direntry(req_, at, room, name, &st, next); });
    fuse_entry_param param{};
    param.attr = st;
    const bool dots = std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0;
    if (dots || is_virtual(id)) {
      if (!dots) {
        const auto attributes = fs_.virtual_tree.attributes(id);
        if (attributes) param = entry_param(VirtualTree::Node{id, *attributes});
      }
      return put(
          [&](char* at, size_t room) { return fuse_add_direntry_plus(req_, at, room, name, &param, next); });
    }
    // Where descriptors are short, or it cannot be looked at, there is the name alone: the kernel asks when
    // it needs more.
    const auto entry = fs_.tree.kernel.knows_many() ? Result<Entry>(Errno{EMFILE})
                                                    : fs_.tree.entries.lookup(*directory_, name);
    if (!entry && entry.error().value == ENOENT) return true;  // gone meanwhile
    if (entry) param = entry_param(*entry);
    const bool fits = put(
        [&](char* at, size_t room) { return fuse_add_direntry_plus(req_, at, room, name, &param, next); });
    if (entry && !fits) fs_.tree.ends.forget(entry->inode->id, 1);
    return fits;
  }

  bool empty() const { return used_ == 0; }
  void reply() { send_buf(req_, {buffer_.data(), used_}); }

 private:
  template <class Add>
  bool put(Add add) {
    const size_t needed = add(buffer_.data() + used_, buffer_.size() - used_);
    if (needed > buffer_.size() - used_) return false;
    used_ += needed;
    return true;
  }

  fuse_req_t req_;
  Filesystem& fs_;
  InodePtr directory_;
  std::vector<char> buffer_;
  size_t used_ = 0;
  bool plus_;
};

void opendir(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return void(send_open(req, *fi, 0));
    with_inode(req, fs, id, [&](Inode& inode) {
      auto fd = fs.backing.open(inode.path.get(), ".", O_RDONLY | O_DIRECTORY);
      if (!fd) return void(send_err(req, fd.error().value));
      ++inode.opens;
      fi->fh = handle_of(fd->release(), DescriptorUse::directory, fs.notes, replay());
      if (send_open(req, *fi, 0) != -ENOENT) return;
      (void)close_handle(fs, fi->fh);
      if (const InodePtr pointer = fs.table.find(id)) fs.tree.ends.closed(pointer);
    });
  });
}

void releasedir(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (!is_virtual(id)) {
      const bool was_open = close_handle(fs, fi->fh);
      if (const InodePtr pointer = was_open ? fs.table.find(id) : nullptr) fs.tree.ends.closed(pointer);
    }
    send_err(req, 0);
  });
}

void list_virtual(fuse_req_t req, Filesystem& fs, fuse_ino_t id, size_t size, off_t offset, bool plus) {
  const auto children = fs.virtual_tree.list(id);
  if (!children) return void(send_err(req, children.error().value));
  Listing listing(req, fs, nullptr, size, plus);
  off_t at = 0;
  const auto next = [&](const char* name, NodeId child, bool directory) {
    if (at++ < offset) return true;
    return listing.add(name, child, directory ? S_IFDIR : S_IFREG, at);
  };
  bool room = next(".", id, true) && next("..", root_node, true);
  for (size_t i = 0; room && i < children->size(); ++i) {
    const VirtualTree::Child& child = (*children)[i];
    room = next(child.name.c_str(), child.id, child.directory);
  }
  listing.reply();
}

// The backing directory's entries from `offset` on; false where the listing is full. Entries are read under
// the inode's lock, since the position is the descriptor's, but looked up without it.
Result<bool> list_backing(Filesystem& fs, Listing& listing, Inode& inode, int fd, off_t offset) {
  Sys& sys = fs.backing.sys();
  alignas(dirent64) std::array<char, 16384> entries;
  for (;;) {
    size_t size = 0;
    {
      const MutexLock lock(inode.mutex);
      const auto sought = sys.lseek(fd, offset, SEEK_SET);
      if (!sought) return sought.error();
      const auto got = sys.getdents(fd, entries.data(), entries.size());
      if (!got) return got.error();
      size = *got;
    }
    if (size == 0) return true;
    for (size_t at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries.data() + at);
      at += entry->d_reclen;
      offset = entry->d_off;
      const std::string_view name = entry->d_name;
      if (inode.id == root_node && (name == usage_directory || name == quota_directory)) continue;
      const bool up = name == "..";
      const NodeId id = up ? root_node : fs.table.id_of(inode.device, entry->d_ino);
      const NodeId shown = up || id == root_node ? entry->d_ino : id;
      // ext4's last offset is the largest there is.
      const off_t next = inode.id == root_node ? std::min(offset, last_backing_offset) : offset;
      if (!listing.add(entry->d_name, shown, type_of(entry->d_type), next)) return false;
    }
  }
}

void list(fuse_req_t req, fuse_ino_t id, size_t size, off_t offset, fuse_file_info* fi, bool plus) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return list_virtual(req, fs, id, size, offset, plus);
    const InodePtr inode = fs.table.find(id);
    if (!inode) return void(send_err(req, ESTALE));
    Listing listing(req, fs, inode, size, plus);
    bool room = true;
    if (id != root_node || offset < last_backing_offset) {
      const auto listed = list_backing(fs, listing, *inode, descriptor_of(fi->fh), offset);
      // What was found before an error is told first: the kernel holds those inodes then.
      if (!listed && listing.empty()) return void(send_err(req, listed.error().value));
      room = listed && *listed;
    }
    if (id == root_node && room) {
      const auto add = [&](std::string_view name, off_t at) {
        if (offset >= at) return true;
        const auto node = fs.virtual_tree.lookup(root_node, name);
        return !node || listing.add(std::string(name).c_str(), node->id, S_IFDIR, at);
      };
      if (add(usage_directory, usage_offset)) add(quota_directory, quota_offset);
    }
    listing.reply();
  });
}

void readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t offset, fuse_file_info* fi) {
  list(req, id, size, offset, fi, false);
}

void readdirplus(fuse_req_t req, fuse_ino_t id, size_t size, off_t offset, fuse_file_info* fi) {
  list(req, id, size, offset, fi, true);
}

void fsyncdir(fuse_req_t req, fuse_ino_t id, int data_only, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id)) return reply(req, {});
    with_inode(req, fs, id, [&](Inode& inode) {
      reply(req, fs.data(inode).sync(inode, descriptor_of(fi->fh), synced(data_only)));
    });
  });
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops& table) {
  table.opendir = opendir;
  table.releasedir = releasedir;
  table.readdir = readdir;
  table.readdirplus = readdirplus;
  table.fsyncdir = fsyncdir;
}

}  // namespace limaquota::operations
