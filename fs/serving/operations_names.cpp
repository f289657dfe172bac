// Operations on names: lookup, create, link, rename and their kin.
#include <fcntl.h>

#include <cerrno>

#include "accounting/layout.hpp"
#include "fs/serving/operations.hpp"

namespace limaquota::operations {
namespace {

bool is_reserved(fuse_ino_t parent, const char* name) {
  return parent == root_node && (name == usage_directory || name == quota_directory);
}

// Inside a virtual tree, or one of them itself.
bool is_virtual_name(fuse_ino_t parent, const char* name) {
  return is_virtual(parent) || is_reserved(parent, name);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  guarded(req, [&](Filesystem& fs) {
    const std::string_view text = name;
    if (is_virtual(parent) && text == ".") {
      const auto st = fs.virtual_tree.attributes(parent);
      if (!st) return void(send_err(req, st.error().value));
      const fuse_entry_param param = entry_param(VirtualTree::Node{parent, *st});
      return void(send_entry(req, param));
    }
    if (is_virtual_name(parent, name)) {
      const auto node = fs.virtual_tree.lookup(parent, name);
      if (!node) return void(send_err(req, node.error().value));
      const fuse_entry_param param = entry_param(*node);
      return void(send_entry(req, param));
    }
    if (text == "." && parent != root_node) return reply_entry(req, fs, fs.tree.entries.reopen(parent));
    with_inode(req, fs, parent, [&](Inode& inode) {
      // ".." of the root is the root: nothing leads out of the tree.
      const bool stay = parent == root_node && text == "..";
      reply_entry(req, fs, fs.tree.entries.lookup(inode, stay ? "." : name));
    });
  });
}

void forget(fuse_req_t req, fuse_ino_t id, uint64_t count) {
  if (!is_virtual(id) && id != root_node) filesystem(req).tree.ends.forget(id, count);
  fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i) {
    if (!is_virtual(forgets[i].ino) && forgets[i].ino != root_node) {
      filesystem(req).tree.ends.forget(forgets[i].ino, forgets[i].nlookup);
    }
  }
  fuse_reply_none(req);
}

void create_virtual(fuse_req_t req, Filesystem& fs, fuse_ino_t parent, const char* name, fuse_file_info* fi) {
  const auto made = fs.virtual_tree.create(replay(), parent, name, fi->flags);
  if (!made) return void(send_err(req, made.error().value));
  fi->fh = made->second;
  fi->direct_io = 1;
  const fuse_entry_param param = entry_param(made->first);
  if (send_create(req, param, *fi, 0) == -ENOENT) fs.virtual_tree.release(made->first.id, fi->fh);
}

// Of a file that is made and open.
void reply_created(fuse_req_t req, Filesystem& fs, Result<Names::Created>& made, fuse_file_info* fi) {
  if (!made) return void(send_err(req, made.error().value));
  const uint32_t flags = opened(fs, *made->entry.inode, std::move(made->fd), fi);
  const fuse_entry_param param = entry_param(made->entry);
  // A caller that was interrupted never learns of the file.
  if (send_create(req, param, *fi, flags) != -ENOENT) return;
  (void)close_handle(fs, fi->fh);
  fs.tree.ends.closed(made->entry.inode);
  fs.tree.ends.forget(made->entry.inode->id, 1);
}

void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual_name(parent, name)) return create_virtual(req, fs, parent, name, fi);
    with_inode(req, fs, parent, [&](Inode& inode) {
      auto made =
          fs.tree.names.create(replay(), fs.metering.io, inode, name, mode, fi->flags, caller_of(req));
      reply_created(req, fs, made, fi);
    });
  });
}

// Only newer libfuse has it in its table: see add_tmpfile.
[[maybe_unused]] void tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, fuse_file_info* fi) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(parent)) return void(send_err(req, EOPNOTSUPP));
    with_inode(req, fs, parent, [&](Inode& inode) {
      auto made = fs.tree.names.tmpfile(inode, mode, fi->flags, caller_of(req));
      reply_created(req, fs, made, fi);
    });
  });
}

template <class Table>
void add_tmpfile(Table& table) {
  if constexpr (requires { table.tmpfile; }) table.tmpfile = tmpfile;
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual_name(parent, name)) return void(send_err(req, EPERM));
    with_inode(req, fs, parent, [&](Inode& inode) {
      reply_entry(req, fs, fs.tree.names.mknod(replay(), inode, name, mode, device, caller_of(req)));
    });
  });
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual_name(parent, name)) return void(send_err(req, is_reserved(parent, name) ? EEXIST : EPERM));
    with_inode(req, fs, parent, [&](Inode& inode) {
      reply_entry(req, fs, fs.tree.names.mkdir(replay(), inode, name, mode, caller_of(req)));
    });
  });
}

void symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual_name(parent, name)) return void(send_err(req, EPERM));
    with_inode(req, fs, parent, [&](Inode& inode) {
      reply_entry(req, fs, fs.tree.names.symlink(replay(), inode, name, target, caller_of(req)));
    });
  });
}

void link(fuse_req_t req, fuse_ino_t id, fuse_ino_t parent, const char* name) {
  guarded(req, [&](Filesystem& fs) {
    if (is_virtual(id) || is_virtual_name(parent, name)) return void(send_err(req, EPERM));
    with_inode(req, fs, id, [&](Inode& inode) {
      with_inode(req, fs, parent, [&](Inode& directory) {
        reply_entry(req, fs, fs.tree.names.link(replay(), inode, directory, name));
      });
    });
  });
}

void remove(fuse_req_t req, fuse_ino_t parent, const char* name, Names::Removed what) {
  guarded(req, [&](Filesystem& fs) {
    if (is_reserved(parent, name)) return void(send_err(req, EPERM));
    if (is_virtual(parent))
      return reply(req, what == Names::Removed::directory ? Errno{EPERM}
                                                          : fs.virtual_tree.unlink(replay(), parent, name));
    with_inode(req, fs, parent,
               [&](Inode& inode) { reply(req, fs.tree.names.remove(replay(), inode, name, what)); });
  });
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  remove(req, parent, name, Names::Removed::file);
}
void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  remove(req, parent, name, Names::Removed::directory);
}

void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  guarded(req, [&](Filesystem& fs) {
    if (is_reserved(parent, name) || is_reserved(new_parent, new_name)) return void(send_err(req, EPERM));
    if (is_virtual(parent) && is_virtual(new_parent)) {
      return reply(req, fs.virtual_tree.rename(replay(), parent, name, new_parent, new_name, flags));
    }
    if (is_virtual(parent) || is_virtual(new_parent)) return void(send_err(req, EXDEV));
    with_inode(req, fs, parent, [&](Inode& from) {
      with_inode(req, fs, new_parent, [&](Inode& to) {
        reply(req, fs.tree.renames.rename(replay(), from, name, to, new_name, flags));
      });
    });
  });
}

void readlink(fuse_req_t req, fuse_ino_t id) {
  guarded(req, [&](Filesystem& fs) {
    with_inode(req, fs, id, [&](Inode& inode) {
      const auto target = fs.backing.sys().readlink(inode.path.get());
      if (!target) return void(send_err(req, target.error().value));
      send_buf(req, *target);
    });
  });
}

}  // namespace

void add_name_operations(fuse_lowlevel_ops& table) {
  table.lookup = lookup;
  table.forget = forget;
  table.forget_multi = forget_multi;
  table.create = create;
  add_tmpfile(table);
  table.mknod = mknod;
  table.mkdir = mkdir;
  table.symlink = symlink;
  table.link = link;
  table.unlink = unlink;
  table.rmdir = rmdir;
  table.rename = rename;
  table.readlink = readlink;
}

}  // namespace limaquota::operations
