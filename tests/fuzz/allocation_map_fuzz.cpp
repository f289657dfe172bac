// Operations on an allocation map, against a model that keeps every block: also across the whole of the
// largest file.
#include "accounting/allocation_map.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/fuzz/fuzz.hpp"

namespace limaquota::fuzz {
namespace {

constexpr uint64_t chunk = AllocationMap::chunk_blocks;
constexpr uint64_t group = 64 * chunk;
constexpr uint64_t blocks = uint64_t{1} << 54;  // of the largest file, with the smallest blocks there are

using Runs = std::vector<std::pair<BlockRange, BlockState>>;

// Whether the map knows a chunk. A hole of more than a group may teach it chunks that were never touched.
enum class Known : uint8_t { no, maybe, yes };

struct ModelChunk {
  std::array<BlockState, chunk> state{};
  uint32_t grown_at = 0;
  Known known = Known::no;
};

// The blocks of a file, and what the map may know of them. Chunks that are not there are holes.
class Model {
 public:
  std::map<uint64_t, ModelChunk> chunks;
  std::set<uint64_t> touched;  // also chunks that a truncate took away since
  Known untouched = Known::no;

  ModelChunk& at(uint64_t index) {
    touched.insert(index);
    const auto [it, is_new] = chunks.try_emplace(index);
    if (is_new) it->second.known = untouched;
    return it->second;
  }

  // Calls `visit(chunk's index, first block in it, end)` for each piece of the range, or for those that are
  // there only.
  template <class Visit>
  void pieces(BlockRange range, bool only_present, Visit visit) const {
    for (uint64_t at = range.first; at < range.end();) {
      if (only_present) {
        const auto next = chunks.lower_bound(at / chunk);
        if (next == chunks.end()) return;
        at = std::max(at, next->first * chunk);
        if (at >= range.end()) return;
      }
      const uint64_t index = at / chunk;
      const uint64_t end = std::min(range.end(), (index + 1) * chunk);
      visit(index, at % chunk, end - index * chunk);
      at = end;
    }
  }

  Runs runs(BlockRange range) const {
    static constexpr ModelChunk holes;
    Runs result;
    pieces(range, false, [&](uint64_t index, uint64_t first, uint64_t end) {
      const auto found = chunks.find(index);
      const auto& states = found == chunks.end() ? holes.state : found->second.state;
      while (first < end) {
        const BlockState here = states[first];
        const auto differs = [=](BlockState other) { return other != here; };
        const auto next = std::find_if(states.begin() + first, states.begin() + end, differs);
        const uint64_t count = static_cast<uint64_t>(next - states.begin()) - first;
        if (result.empty() || result.back().second != here)
          result.push_back({{index * chunk + first, 0}, here});
        result.back().first.count += count;
        first += count;
      }
    });
    return result;
  }
};

// An input is operations of six bytes: what, where, and how far.
class Operations {
 public:
  void run(const std::string& input) {
    for (size_t at = 0; at + 6 <= input.size() && !testing::Test::HasFailure(); at += 6) {
      ++now_;
      step(input.substr(at, 6));
      for (const auto& [index, model] : model_.chunks)
        EXPECT_EQ(map_.grown_at(index), model.grown_at) << index;
      EXPECT_LE(map_.memory_bytes(), 1024 + model_.touched.size() * 4096)
          << "it costs what its touched parts cost";
    }
    fails_in_ = 0;
    for (const uint64_t index : model_.touched) check_count({index * chunk, chunk});
  }

 private:
  static uint64_t number(const std::string& bytes, size_t at) {
    return static_cast<unsigned char>(bytes[at]) * uint64_t{256} + static_cast<unsigned char>(bytes[at + 1]);
  }

  // Sixteen chunks in each of a few places, so that operations meet: where groups, 32 bits and files end.
  static BlockRange range_of(const std::string& bytes) {
    static constexpr std::array<uint64_t, 4> places = {0, group - 8 * chunk, (uint64_t{1} << 32) - 8 * chunk,
                                                       blocks - 16 * chunk};
    BlockRange range{places[static_cast<unsigned char>(bytes[1]) % places.size()] + number(bytes, 2), 0};
    const uint64_t length = number(bytes, 4);
    const uint64_t shift = length >> 12;
    range.count = 1 + ((length & 0xfff) >> std::min<uint64_t>(shift, 12));
    if (shift >= 12) {  // whole chunks
      range.first -= range.first % chunk;
      range.count = chunk * (1 + length % (shift == 15 ? 70 : 4));
    }
    range.count = std::min(range.count, blocks - range.first);
    return range;
  }

  void step(const std::string& bytes) {
    const BlockRange range = range_of(bytes);
    const BlockRange giant{range.first, blocks - range.first - range.count % 3};
    fails_in_ = static_cast<unsigned char>(bytes[1]) / 32;  // mostly later than the operation asks
    switch (static_cast<unsigned char>(bytes[0]) % 12) {
      case 0:
        return forget(range);
      case 1:
        return forget(giant);
      case 2:
        return set(giant.count > group ? giant : range, BlockState::hole);
      case 3:
        return truncate(range.first);
      case 4:
      case 5:
        return check_count(range);
      case 6:
        return check_runs(range);
      case 7:
      case 8:
        return set(range, BlockState::hole);
      case 9:
        return set(range, BlockState::unwritten);
      default:
        return set(range, BlockState::written);
    }
  }

  // The backing filesystem: its runs stick out of the range, as FIEMAP's do, and what sticks out is not true.
  AllocationMap::Fill fill() {
    return [this](BlockRange range, const AllocationMap::Sink& sink) -> Result<void> {
      EXPECT_TRUE(range.first % chunk == 0 && range.count == chunk) << "not one whole chunk";
      ModelChunk& model = model_.at(range.first / chunk);
      EXPECT_NE(model.known, Known::yes) << "a known chunk was filled again";
      for (auto& [run, state] : model_.runs(range)) {
        const uint64_t before = run.first == range.first ? std::min<uint64_t>(run.first, 100) : 0;
        const uint64_t after = run.end() == range.end() ? 100 : 0;
        if (state != BlockState::hole) sink({run.first - before, run.count + before + after}, state);
      }
      if (fails_in_ != 0 && --fails_in_ == 0) {
        failed_ = true;
        return Errno{EIO};
      }
      model.known = Known::yes;
      return {};
    };
  }

  void set(BlockRange range, BlockState state) {
    map_.set(range, state, now_);
    const bool is_giant = state == BlockState::hole && range.count > group;
    model_.pieces(range, is_giant, [&](uint64_t index, uint64_t first, uint64_t end) {
      ModelChunk& model = model_.at(index);
      const auto begin = model.state.begin();
      const bool fills_a_hole = std::find(begin + first, begin + end, BlockState::hole) != begin + end;
      std::fill(begin + first, begin + end, state);
      if (state != BlockState::hole && (fills_a_hole || model.known == Known::no)) model.grown_at = now_;
      // What is allocated in a chunk that is not known counts as growth.
      if (state != BlockState::hole && model.known == Known::maybe && map_.grown_at(index) == now_) {
        model.grown_at = now_;
      }
      if (end - first == chunk) model.known = Known::yes;
    });
    if (is_giant) model_.untouched = Known::maybe;
  }

  void forget(BlockRange range) {
    map_.forget(range);
    model_.pieces(range, true,
                  [&](uint64_t index, uint64_t, uint64_t) { model_.at(index).known = Known::no; });
  }

  void truncate(uint64_t from) {
    map_.truncate(from);
    model_.chunks.erase(model_.chunks.lower_bound(from / chunk + (from % chunk != 0 ? 1 : 0)),
                        model_.chunks.end());
    const auto last = model_.chunks.find(from / chunk);
    if (last == model_.chunks.end()) return;
    std::fill(last->second.state.begin() + from % chunk, last->second.state.end(), BlockState::hole);
    last->second.known = Known::no;
  }

  void check_count(BlockRange range) {
    failed_ = false;
    const bool written = map_.known_written(range);
    const Result<BlockCounts> counts = map_.count(range, fill());
    EXPECT_EQ(static_cast<bool>(counts), !failed_);
    if (!counts) return;
    BlockCounts expected;
    for (const auto& [run, state] : model_.runs(range)) {
      if (state == BlockState::hole) expected.hole += run.count;
      if (state == BlockState::unwritten) expected.unwritten += run.count;
      if (state == BlockState::written) expected.written += run.count;
    }
    EXPECT_EQ(*counts, expected);
    const bool all_written = expected.written == range.count;
    EXPECT_TRUE(all_written || !written);
    EXPECT_EQ(map_.known_written(range), all_written);
    know(range);
  }

  void check_runs(BlockRange range) {
    failed_ = false;
    Runs seen;
    const Result<void> done = map_.runs(range, fill(), [&](BlockRange run, BlockState state) {
      seen.push_back({run, state});
    });
    EXPECT_EQ(static_cast<bool>(done), !failed_);
    EXPECT_EQ(seen, done ? model_.runs(range) : Runs());
    if (done) know(range);
  }

  void know(BlockRange range) {
    model_.pieces(range, false,
                  [&](uint64_t index, uint64_t, uint64_t) { model_.at(index).known = Known::yes; });
  }

  AllocationMap map_;
  Model model_;
  uint32_t now_ = 0;
  uint64_t fails_in_ = 0;  // fills; 0: never
  bool failed_ = false;
};

std::string operations(Mutator& random, const Corpus& corpus) {
  if (random.below(2) == 0) return random.mutate(corpus);
  std::string input;
  for (size_t length = 6 * random.below(40); length > 0; --length)
    input += static_cast<char>(random.below(256));
  return input;
}

TEST(FuzzAllocationMap, AgreesWithAModelUpToTheLargestFile) {
  using namespace std::string_literals;
  // Written, counted, punched, counted; unwritten, converted, told; across a group's end; the end of the
  // largest file; a giant hole over what was written, and the file cut.
  const Corpus corpus = {"\x0a\0\0\0\xc0\1\4\0\0\0\xc0\1\7\0\0\x20\0\x0f\5\0\0\0\xc0\1"s,
                         "\x09\0\0\0\xc0\3\x0b\0\1\0\x30\x07\6\0\0\0\xc0\3"s,
                         "\x0a\1\x70\0\xc0\3\6\1\x70\0\xc0\3\3\1\x80\0\0\0\4\1\x70\0\xc0\3"s,
                         "\x0a\3\xff\xff\0\0\4\3\xff\xf0\0\x0f\2\0\0\0\0\0\5\3\xf0\0\xc0\0"s,
                         "\x0a\0\0\0\xff\xff\2\0\0\5\0\1\6\0\0\0\xff\xff\1\0\0\0\0\0\6\0\0\0\xff\xff"s};
  run([&](Mutator& random) { return operations(random, corpus); },
      [](const std::string& input) {
        Operations().run(input);
        return true;
      });
}

}  // namespace
}  // namespace limaquota::fuzz
