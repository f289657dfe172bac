// The blocks of a file in memory, as the filesystem that it stands for allocates them: late, in advance, and
// shared with others, as its rules tell.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fs/system/sys.hpp"

namespace limaquota {

// What a filesystem does. Its name decides what the daemon expects of it (fs/backing/filesystems.hpp): a rule
// that does more than the daemon reckons with is how a test shows that it would be seen.
struct MemoryRules {
  long magic = 0;              // as statfs(2) tells it
  uint64_t blocks = 1 << 20;   // of its device
  uint64_t leaf_extents = 0;   // extents in a metadata block, at the worst half full; 0: they cost nothing
  uint64_t inode_extents = 0;  // that need no metadata block
  uint64_t copied_blocks = 1;  // that copying one shared block allocates
  bool preallocates = false;   // past the end of a file that grows: as much as it has, 16 blocks at least
  bool shares = false;         // copy_file_range
  bool scatters = false;       // no two blocks make one extent

  static MemoryRules ext4();
  static MemoryRules xfs();
  static MemoryRules btrfs();
  static MemoryRules tmpfs();
};

// The space that all files of a filesystem take from.
struct MemoryDisk {
  explicit MemoryDisk(const MemoryRules& its_rules) : rules(its_rules), free(its_rules.blocks) {}
  bool take(uint64_t count);

  const MemoryRules rules;
  uint64_t free;  // blocks
};

// Blocks are 4 KiB. Where there is none left, a function says so by false and has done what fitted. Thread
// safety: none.
class MemoryFile {
 public:
  static constexpr uint64_t block = 4096;

  explicit MemoryFile(MemoryDisk& disk) : disk_(disk) {}

  uint64_t size() const { return size_; }
  uint64_t allocated() const;  // blocks, its metadata included
  bool is_preallocated() const { return preallocated_; }
  std::vector<Extent> extents() const;
  // One character a block: '.' a hole, 'u' unwritten, 'w' written, 's' shared; what lies past the end in
  // brackets.
  std::string picture() const;
  // Makes it such a picture, without brackets.
  void draw(const std::string& picture);

  // How many bytes were written.
  uint64_t write(ByteRange range);
  // `mode` as of fallocate(2).
  bool allocate(int mode, ByteRange range);
  void punch(ByteRange range);
  bool truncate(uint64_t size);
  // Another file's blocks become its own, too.
  void share_from(MemoryFile& from, uint64_t offset, ByteRange range);
  // The extents get their metadata now, in leaves that are half full.
  void write_back();
  // As O_TRUNC does it: what lies past the end stays.
  void empty();
  void give_all_back();

 private:
  struct Block {
    bool unwritten = false;
    bool shared = false;
  };
  void grow_past_end();
  bool write_block(uint64_t index);
  void drop(uint64_t index);
  void drop_extras();

  MemoryDisk& disk_;
  uint64_t size_ = 0;
  std::map<uint64_t, Block> blocks_;
  uint64_t past_end_ = 0;  // blocks that were preallocated there, and that nobody asked for
  uint64_t copies_ = 0;    // and those beside copied ones
  std::set<uint64_t> copied_units_;
  uint64_t leaves_ = 0;  // blocks of its metadata
  bool preallocated_ = false;
};

}  // namespace limaquota
