// Intents: what a request is about to do, noted before its system call. Operations that have another outcome
// when they are carried out twice (a name is made, taken away, renamed) have a type each. If the worker dies,
// the next one, to which the kernel sends the request again, reads in the intent what stood there before.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <variant>

#include "fs/system/node_id.hpp"

namespace limaquota {

// Which way a limit goes when something is renamed: with what is renamed, with what it is exchanged for.
enum class LimitGoes : uint8_t { nowhere, along, back };

// CREATE, MKNOD, MKDIR, SYMLINK, LINK: nothing stands at the name.
struct MakesName {};
// CREATE, later: the file is made, and its mode, which forbids to open it, is another for a moment.
struct OpensUp {
  mode_t mode = 0;  // what it was, 07777
};
// UNLINK, RMDIR: a name of this inode.
struct TakesNameAway {
  NodeId inode = 0;
};
// RENAME: what stands at either name; a target of 0 is none.
struct RenamesInode {
  NodeId source = 0;
  NodeId target = 0;
  LimitGoes limit = LimitGoes::nowhere;
};
// SETXATTR that may only make one, REMOVEXATTR of one that is there.
struct ChangesAttribute {};
// OPEN and CREATE below `.usage` and `.quota`: the handle that it gets.
struct OpensText {
  uint64_t handle = 0;
};
// UNLINK and RENAME below `.quota`.
struct ChangesText {};

// Their order is noted: a new kind comes last, and counts the version of Notes.
using Intent =
    std::variant<MakesName, OpensUp, TakesNameAway, RenamesInode, ChangesAttribute, OpensText, ChangesText>;

// An intent as words, which memory that is written one at a time can hold.
struct IntentWords {
  uint8_t kind = 0;  // 0: none
  uint64_t first = 0, second = 0;
  uint32_t third = 0;
};

namespace intents {

inline void fill(IntentWords&, const MakesName&) {}
inline void fill(IntentWords& words, const OpensUp& intent) { words.third = intent.mode; }
inline void fill(IntentWords& words, const TakesNameAway& intent) { words.first = intent.inode; }
inline void fill(IntentWords& words, const RenamesInode& intent) {
  words.first = intent.source;
  words.second = intent.target;
  words.third = static_cast<uint32_t>(intent.limit);
}
inline void fill(IntentWords&, const ChangesAttribute&) {}
inline void fill(IntentWords& words, const OpensText& intent) { words.first = intent.handle; }
inline void fill(IntentWords&, const ChangesText&) {}

inline IntentWords words_of(const Intent& intent) {
  IntentWords words;
  words.kind = static_cast<uint8_t>(intent.index() + 1);
  std::visit([&](const auto& one) { fill(words, one); }, intent);
  return words;
}

// `words.kind` is not 0.
inline Intent intent_of(const IntentWords& words) {
  const std::array<Intent, std::variant_size_v<Intent>> kinds{
      MakesName{},
      OpensUp{static_cast<mode_t>(words.third)},
      TakesNameAway{words.first},
      RenamesInode{words.first, words.second, static_cast<LimitGoes>(words.third)},
      ChangesAttribute{},
      OpensText{words.first},
      ChangesText{}};
  return kinds.at(words.kind - size_t{1});
}

}  // namespace intents
}  // namespace limaquota
