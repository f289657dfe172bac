#include "mount-helpers/reclaim/ext_bitmap.hpp"

#include <ext2fs/ext2fs.h>
#include <fmt/format.h>

#include <memory>

#include "mount-helpers/reclaim/ranges.hpp"

extern "C" {
#include <et/com_err.h>  // knows nothing of C++
}

namespace limaquota {
namespace {

// What our io manager reads from: libext2fs hands on no pointer at open, so the one that is being opened
// stands here.
struct Source {
  OpenDisk* disk;
  ByteRange partition;
};
thread_local const Source* opening = nullptr;

const Source& source_of(io_channel channel) { return *static_cast<const Source*>(channel->private_data); }

errcode_t open_channel(const char*, int, io_channel* channel);
errcode_t set_block_size(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}
errcode_t nothing(io_channel) { return 0; }
errcode_t no_write(io_channel, unsigned long, int, const void*) { return EXT2_ET_RO_FILSYS; }
errcode_t no_write64(io_channel, unsigned long long, int, const void*) { return EXT2_ET_RO_FILSYS; }

// A negative count is bytes, as in all io managers. No exception may pass through the library.
errcode_t read64(io_channel channel, unsigned long long block, int count, void* data) {
  const Source& source = source_of(channel);
  const auto unit = static_cast<uint64_t>(channel->block_size);
  const uint64_t length =
      count < 0 ? static_cast<uint64_t>(-static_cast<int64_t>(count)) : static_cast<uint64_t>(count) * unit;
  uint64_t offset = 0;
  if (__builtin_mul_overflow(block, unit, &offset) || offset > source.partition.length ||
      length > source.partition.length - offset) {
    return EXT2_ET_SHORT_READ;
  }
  try {
    source.disk->read(source.partition.offset + offset, {static_cast<std::byte*>(data), length});
  } catch (const std::exception&) {
    return EXT2_ET_SHORT_READ;
  }
  return 0;
}
errcode_t read32(io_channel channel, unsigned long block, int count, void* data) {
  return read64(channel, block, count, data);
}
errcode_t close_channel(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  ext2fs_free_mem(&channel->name);
  ext2fs_free_mem(&channel);
  return 0;
}

struct_io_manager make_manager() {
  struct_io_manager manager{};
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "limaquota";
  manager.open = open_channel;
  manager.close = close_channel;
  manager.set_blksize = set_block_size;
  manager.read_blk = read32;
  manager.read_blk64 = read64;
  manager.write_blk = no_write;
  manager.write_blk64 = no_write64;
  manager.flush = nothing;
  return manager;
}
struct_io_manager manager = make_manager();

// Names and channels are the library's to free.
errcode_t open_channel(const char* name, int, io_channel* channel) {
  io_channel made = nullptr;
  if (const errcode_t error = ext2fs_get_memzero(sizeof *made, &made)) return error;
  made->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  made->manager = &manager;
  made->block_size = 1024;
  made->refcount = 1;
  made->private_data = const_cast<Source*>(opening);
  const size_t length = std::char_traits<char>::length(name) + 1;
  if (const errcode_t error = ext2fs_get_mem(length, &made->name)) {
    ext2fs_free_mem(&made);
    return error;
  }
  std::char_traits<char>::copy(made->name, name, length);
  *channel = made;
  return 0;
}

struct CloseExt {
  void operator()(ext2_filsys fs) const { ext2fs_free(fs); }
};

std::string why_unclean(ext2_filsys fs, ByteRange partition) {
  const ext2_super_block& super = *fs->super;
  if (ext2fs_has_feature_journal_needs_recovery(fs->super)) {
    return "its journal is not clean, so its free blocks are not believed: start the VM once and stop it in "
           "order";
  }
  if ((super.s_state & EXT2_VALID_FS) == 0 || (super.s_state & EXT2_ERROR_FS) != 0) {
    return "it was not unmounted in order or has errors, so its free blocks are not believed: run fsck in "
           "the VM";
  }
  if ((super.s_feature_incompat & ~uint32_t{EXT2_LIB_FEATURE_INCOMPAT_SUPP}) != 0 ||
      (super.s_feature_ro_compat & ~uint32_t{EXT2_LIB_FEATURE_RO_COMPAT_SUPP}) != 0) {
    return "it has features that this libext2fs does not know";
  }
  if (ext2fs_blocks_count(fs->super) > partition.length / fs->blocksize) {
    return "it is larger than its partition";
  }
  return "";
}

std::vector<ByteRange> free_ranges(ext2_filsys fs, ByteRange partition) {
  std::vector<ByteRange> ranges;
  const blk64_t end = ext2fs_blocks_count(fs->super);
  for (blk64_t next = fs->super->s_first_data_block; next < end;) {
    blk64_t first = 0, used = 0;
    if (ext2fs_find_first_zero_block_bitmap2(fs->block_map, next, end - 1, &first) != 0) break;
    if (ext2fs_find_first_set_block_bitmap2(fs->block_map, first, end - 1, &used) != 0) used = end;
    append_range(ranges, {partition.offset + first * fs->blocksize, (used - first) * fs->blocksize});
    next = used;
  }
  return ranges;
}

}  // namespace

ExtBitmap read_ext_bitmap(OpenDisk& disk, ByteRange partition) {
  const Source source{&disk, partition};
  opening = &source;
  initialize_ext2_error_table();
  ext2_filsys opened = nullptr;
  errcode_t error = ext2fs_open("disk", EXT2_FLAG_64BITS, 0, 0, &manager, &opened);
  const std::unique_ptr<struct_ext2_filsys, CloseExt> fs(opened);
  if (error == 0) {
    std::string why = why_unclean(fs.get(), partition);
    if (!why.empty()) return {.free = {}, .why_not = std::move(why)};
    error = ext2fs_read_block_bitmap(fs.get());
  }
  if (error != 0) {
    return {.free = {}, .why_not = fmt::format("its free blocks cannot be read: {}", error_message(error))};
  }
  return {.free = free_ranges(fs.get(), partition), .why_not = ""};
}

}  // namespace limaquota
