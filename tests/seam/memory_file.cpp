#include "tests/seam/memory_file.hpp"

#include <linux/falloc.h>
#include <linux/magic.h>

#include <algorithm>

namespace limaquota {

MemoryRules MemoryRules::ext4() {
  MemoryRules rules;
  rules.magic = EXT4_SUPER_MAGIC;
  rules.leaf_extents = 340;
  rules.inode_extents = 4;
  return rules;
}

MemoryRules MemoryRules::xfs() {
  MemoryRules rules;
  rules.magic = 0x58465342;
  rules.leaf_extents = 251;
  rules.copied_blocks = 32;
  rules.preallocates = true;
  rules.shares = true;
  return rules;
}

MemoryRules MemoryRules::btrfs() {
  MemoryRules rules;
  rules.magic = BTRFS_SUPER_MAGIC;
  rules.shares = true;
  return rules;
}

MemoryRules MemoryRules::tmpfs() {
  MemoryRules rules;
  rules.magic = TMPFS_MAGIC;
  return rules;
}

bool MemoryDisk::take(uint64_t count) {
  if (free < count) return false;
  free -= count;
  return true;
}

uint64_t MemoryFile::allocated() const { return blocks_.size() + past_end_ + copies_ + leaves_; }

std::string MemoryFile::picture() const {
  const uint64_t end = (size_ + block - 1) / block;
  const uint64_t last = blocks_.empty() ? 0 : blocks_.rbegin()->first + 1;
  std::string text;
  for (uint64_t i = 0; i < std::max(end, last); ++i) {
    if (i == end) text += '[';
    const auto found = blocks_.find(i);
    text += found == blocks_.end() ? '.' : found->second.shared ? 's' : found->second.unwritten ? 'u' : 'w';
  }
  if (last > end) text += ']';
  return text;
}

void MemoryFile::draw(const std::string& picture) {
  for (uint64_t i = 0; i < picture.size(); ++i) {
    drop(i);
    if (picture[i] == '.') continue;
    (void)disk_.take(1);
    blocks_[i] = {picture[i] == 'u', picture[i] == 's'};
  }
  size_ = picture.size() * block;
}

// What it has beyond a file's end is its own, and goes when it likes.
void MemoryFile::grow_past_end() {
  const uint64_t end = (size_ + block - 1) / block;
  disk_.free += past_end_;
  past_end_ = 0;
  if (!disk_.rules.preallocates) return;
  const uint64_t wanted = std::max<uint64_t>(16, end);
  if (disk_.take(wanted)) past_end_ = wanted;
}

bool MemoryFile::write_block(uint64_t index) {
  const auto found = blocks_.find(index);
  if (found == blocks_.end()) {
    if (!disk_.take(1)) return false;
    blocks_[index] = {};
    return true;
  }
  // What was shared stays another file's. Copies are allocated in whole units; the next ones find theirs
  // there.
  if (found->second.shared) {
    const uint64_t unit = disk_.rules.copied_blocks;
    if (copied_units_.insert(index / unit).second) {
      if (!disk_.take(unit)) return false;
      copies_ += unit;
    }
    if (copies_ > 0) --copies_;
  }
  found->second = {};
  return true;
}

uint64_t MemoryFile::write(ByteRange range) {
  uint64_t written = 0;
  while (written < range.length) {
    const uint64_t here = range.offset + written;
    if (!write_block(here / block)) break;
    written += std::min(range.length - written, block - here % block);
  }
  if (written > 0 && range.offset + written > size_) {
    size_ = range.offset + written;
    grow_past_end();
  }
  return written;
}

void MemoryFile::drop(uint64_t index) {
  const auto found = blocks_.find(index);
  if (found == blocks_.end()) return;
  if (!found->second.shared) ++disk_.free;
  blocks_.erase(found);
}

void MemoryFile::drop_extras() {
  disk_.free += past_end_ + copies_;
  past_end_ = copies_ = 0;
  copied_units_.clear();
}

void MemoryFile::punch(ByteRange range) {
  const BlockRange whole = range.whole_blocks(block);
  if (range.offset >= size_) drop_extras();
  for (auto at = blocks_.lower_bound(whole.first); at != blocks_.end() && at->first < whole.end();) {
    const uint64_t index = (at++)->first;
    drop(index);
  }
}

bool MemoryFile::allocate(int mode, ByteRange range) {
  const BlockRange whole = range.whole_blocks(block);
  for (uint64_t i = range.offset / block; i < (range.end() + block - 1) / block; ++i) {
    const auto found = blocks_.find(i);
    if (found == blocks_.end()) {
      if (!disk_.take(1)) return false;
      blocks_[i] = {true, false};
    } else if ((mode & FALLOC_FL_ZERO_RANGE) != 0 && i >= whole.first && i < whole.end() &&
               !found->second.shared) {
      found->second.unwritten = true;
    }
  }
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0) size_ = std::max(size_, range.end());
  if (range.end() > size_) preallocated_ = true;
  return true;
}

bool MemoryFile::truncate(uint64_t size) {
  if (size <= size_) {
    const uint64_t end = (size + block - 1) / block;
    while (!blocks_.empty() && blocks_.rbegin()->first >= end) drop(blocks_.rbegin()->first);
    drop_extras();
    preallocated_ = false;
    if (blocks_.empty()) {
      disk_.free += leaves_;
      leaves_ = 0;
    }
    // Zeroing the rest of a shared block copies it.
    const auto last = blocks_.find(size / block);
    if (size % block != 0 && last != blocks_.end() && last->second.shared && !write_block(last->first))
      return false;
  }
  size_ = size;
  return true;
}

void MemoryFile::empty() {
  while (!blocks_.empty()) drop(blocks_.rbegin()->first);
  size_ = 0;
}

void MemoryFile::share_from(MemoryFile& from, uint64_t offset, ByteRange range) {
  for (uint64_t i = 0; i < (range.length + block - 1) / block; ++i) {
    const uint64_t index = range.offset / block + i;
    const auto original = from.blocks_.find(offset / block + i);
    drop(index);
    if (original == from.blocks_.end()) continue;
    original->second.shared = true;
    blocks_[index] = original->second;
  }
  size_ = std::max(size_, range.end());
}

std::vector<Extent> MemoryFile::extents() const {
  std::vector<Extent> all;
  for (const auto& [index, one] : blocks_) {
    const bool joins = !all.empty() && !disk_.rules.scatters &&
                       all.back().offset + all.back().length == index * block &&
                       all.back().unwritten == one.unwritten && all.back().shared == one.shared;
    if (joins) {
      all.back().length += block;
    } else {
      all.push_back({index * block, block, one.unwritten, one.shared});
    }
  }
  if (past_end_ > 0) all.push_back({(size_ + block - 1) / block * block, past_end_ * block, true, false});
  return all;
}

void MemoryFile::write_back() {
  const MemoryRules& rules = disk_.rules;
  if (rules.leaf_extents == 0) return;
  const uint64_t count = extents().size();
  const uint64_t half = rules.leaf_extents / 2;
  const uint64_t needed = count <= rules.inode_extents ? 0 : (count + half - 1) / half;
  if (needed > leaves_ && disk_.take(needed - leaves_)) leaves_ = needed;
}

void MemoryFile::give_all_back() {
  while (!blocks_.empty()) drop(blocks_.begin()->first);
  disk_.free += leaves_;
  leaves_ = 0;
  drop_extras();
}

}  // namespace limaquota
