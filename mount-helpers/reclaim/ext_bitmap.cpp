#include "mount-helpers/reclaim/ext_bitmap.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "mount-helpers/reclaim/ext2fs.hpp"
#include "mount-helpers/reclaim/ranges.hpp"

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
using Ext = std::unique_ptr<struct_ext2_filsys, CloseExt>;

Ext open_ext(const Source& source, int flags, std::string& why_not) {
  opening = &source;
  ext2_filsys fs = nullptr;
  const errcode_t error = ext2fs_open("disk", EXT2_FLAG_64BITS | flags, 0, 0, &manager, &fs);
  if (error == 0) return Ext(fs);
  why_not = fmt::format("its free blocks cannot be read: {}", error_message(error));
  return nullptr;
}

// A geometry that the library reads group descriptors by without harm, and we bitmaps.
bool is_sound(ext2_filsys fs, ByteRange partition) {
  const ext2_super_block& super = *fs->super;
  const uint64_t blocks = ext2fs_blocks_count(fs->super);
  const uint64_t ratio = uint64_t{1} << fs->cluster_ratio_bits;
  const uint64_t clusters = super.s_clusters_per_group;
  return blocks > super.s_first_data_block && blocks <= partition.length / fs->blocksize && clusters > 0 &&
         clusters % 8 == 0 && clusters <= uint64_t{fs->blocksize} * 8 &&
         super.s_blocks_per_group == clusters * ratio;
}

std::string why_unclean(ext2_filsys fs, ByteRange partition) {
  const ext2_super_block& super = *fs->super;
  if (ext2fs_has_feature_journal_needs_recovery(fs->super)) {
    return "its journal is not clean, so its free blocks are not believed: start the VM once and stop it in "
           "order";
  }
  if ((super.s_state & EXT2_VALID_FS) == 0 || (super.s_state & EXT2_ERROR_FS) != 0) {
    return "it was not unmounted in order or has errors, so its free blocks are not believed: run fsck in "
           "the "
           "VM";
  }
  if ((super.s_feature_incompat & ~uint32_t{EXT2_LIB_FEATURE_INCOMPAT_SUPP}) != 0 ||
      (super.s_feature_ro_compat & ~uint32_t{EXT2_LIB_FEATURE_RO_COMPAT_SUPP}) != 0) {
    return "it has features that this libext2fs does not know";
  }
  return is_sound(fs, partition) ? "" : "its free blocks cannot be read: the superblock contradicts itself";
}

// Goes through the groups' bitmaps. Not by ext2fs_read_block_bitmap: a superblock that lies makes it write
// beyond its buffer (1.47.0). A group whose bitmap was never written has never been used: nothing to win.
class Groups {
 public:
  Groups(ext2_filsys fs, OpenDisk& disk, ByteRange partition)
      : fs_(fs), disk_(disk), partition_(partition), bitmap_(fs->blocksize) {}

  // False where a descriptor or a bitmap is damaged. Without metadata_csum no checksum tells: so a group must
  // have as many free clusters as its descriptor says, and none of them may hold metadata.
  bool read(std::vector<ByteRange>& free) {
    for (dgrp_t group = 0; group < fs_->group_desc_count; ++group) {
      if (ext2fs_has_group_desc_csum(fs_) && ext2fs_group_desc_csum_verify(fs_, group) == 0) return false;
      if (ext2fs_has_group_desc_csum(fs_) && ext2fs_bg_flags_test(fs_, group, EXT2_BG_BLOCK_UNINIT)) continue;
      const uint64_t place = ext2fs_block_bitmap_loc(fs_, group);
      if (place <= fs_->super->s_first_data_block || place >= ext2fs_blocks_count(fs_->super)) return false;
      disk_.read(partition_.offset + place * fs_->blocksize, bitmap_);
      if (ext2fs_block_bitmap_csum_verify(fs_, group, reinterpret_cast<char*>(bitmap_.data()),
                                          static_cast<int>(fs_->super->s_clusters_per_group / 8)) == 0) {
        return false;
      }
      if (add_free(group, free) != ext2fs_bg_free_blocks_count(fs_, group)) return false;
    }
    return metadata_is_used(free);
  }

 private:
  // Returns how many clusters are free.
  uint64_t add_free(dgrp_t group, std::vector<ByteRange>& free) const {
    const uint64_t cluster = uint64_t{fs_->blocksize} << fs_->cluster_ratio_bits;
    const uint64_t first =
        (fs_->super->s_first_data_block + uint64_t{group} * fs_->super->s_blocks_per_group) * fs_->blocksize;
    const uint64_t end = ext2fs_blocks_count(fs_->super) * fs_->blocksize;
    uint64_t count = 0;
    for (uint64_t bit = 0; bit < fs_->super->s_clusters_per_group; ++bit) {
      const ByteRange place = clipped({first + bit * cluster, cluster}, end);
      if (place.length == 0) break;
      if ((std::to_integer<unsigned>(bitmap_[bit / 8]) >> bit % 8 & 1) != 0) continue;
      append_range(free, {partition_.offset + place.offset, place.length});
      ++count;
    }
    return count;
  }

  bool metadata_is_used(const std::vector<ByteRange>& free) const {
    std::vector<ByteRange> metadata;
    const uint64_t blocks = ext2fs_blocks_count(fs_->super);
    const auto add = [&](uint64_t block, uint64_t count) {
      if (block >= blocks || count > blocks - block) return false;
      metadata.push_back({partition_.offset + block * fs_->blocksize, count * fs_->blocksize});
      return true;
    };
    for (dgrp_t group = 0; group < fs_->group_desc_count; ++group) {
      // A superblock and the descriptors after it are one run from the group's start.
      blk_t count = 0;
      ext2fs_super_and_bgd_loc2(fs_, group, nullptr, nullptr, nullptr, &count);
      if (!add(ext2fs_group_first_block2(fs_, group), count) ||
          !add(ext2fs_block_bitmap_loc(fs_, group), 1) || !add(ext2fs_inode_bitmap_loc(fs_, group), 1) ||
          !add(ext2fs_inode_table_loc(fs_, group), fs_->inode_blocks_per_group)) {
        return false;
      }
    }
    std::sort(metadata.begin(), metadata.end(),
              [](const ByteRange& a, const ByteRange& b) { return a.offset < b.offset; });
    return intersection(metadata, free).empty();
  }

  ext2_filsys fs_;
  OpenDisk& disk_;
  ByteRange partition_;
  std::vector<std::byte> bitmap_;
};

}  // namespace

ExtBitmap read_ext_bitmap(OpenDisk& disk, ByteRange partition) {
  const Source source{&disk, partition};
  initialize_ext2_error_table();
  ExtBitmap result;
  // First the superblock alone: how many group descriptors are read is up to it.
  if (const Ext super = open_ext(source, EXT2_FLAG_SUPER_ONLY, result.why_not)) {
    result.why_not = why_unclean(super.get(), partition);
  }
  if (!result.why_not.empty()) return result;
  const Ext fs = open_ext(source, 0, result.why_not);
  if (!fs) return result;
  if (!is_sound(fs.get(), partition) || !Groups(fs.get(), disk, partition).read(result.free)) {
    result.free.clear();
    result.why_not = "its free blocks cannot be read: a group's descriptor or bitmap is damaged";
  }
  return result;
}

}  // namespace limaquota
