// The allocation map at its design size: a 100 GiB disk of 4 KiB blocks with 1.6 million separate extents.
// Goals: at most 7 MiB (the counter memory_bytes), and at most 200 ns for one count() and set() of up to 1
// MiB.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "accounting/allocation_map.hpp"

namespace limaquota {
namespace {

constexpr uint64_t disk_blocks = 100ULL * 1024 * 1024 * 1024 / 4096;
constexpr uint64_t extents = 1'600'000;
constexpr uint64_t spacing = disk_blocks / extents;

// Extents of 1 to 8 blocks, one in each `spacing` blocks, every third of them unwritten: no chunk is uniform,
// and each has both bitmaps.
Result<void> fragmented(BlockRange range, const AllocationMap::Sink& sink) {
  for (uint64_t extent = range.first / spacing; extent < extents && extent * spacing < range.end();
       ++extent) {
    sink({extent * spacing, 1 + extent % 8}, extent % 3 == 0 ? BlockState::unwritten : BlockState::written);
  }
  return {};
}

AllocationMap filled_map() {
  AllocationMap map;
  if (!map.count({0, disk_blocks}, fragmented)) std::abort();
  return map;
}

std::vector<uint64_t> random_blocks(uint64_t below) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> blocks(1 << 16);
  for (uint64_t& block : blocks) block = random() % below;
  return blocks;
}

// What one metered write costs at most: a look at the range, then its new state, at random places of the
// disk.
void count_and_set(benchmark::State& state) {
  const auto blocks_each = static_cast<uint64_t>(state.range(0));
  AllocationMap map = filled_map();
  const AllocationMap::Fill fill = fragmented;
  const std::vector<uint64_t> places = random_blocks(disk_blocks - blocks_each);
  size_t at = 0;
  for (auto _ : state) {
    const BlockRange range{places[at++ % places.size()], blocks_each};
    benchmark::DoNotOptimize(map.count(range, fill));
    map.set(range, at % 2 == 0 ? BlockState::written : BlockState::hole, 1);
  }
  state.counters["memory_bytes"] = static_cast<double>(map.memory_bytes());
}
BENCHMARK(count_and_set)->ArgName("blocks")->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Repetitions(9);

void fill_whole_disk(benchmark::State& state) {
  size_t memory = 0;
  for (auto _ : state) {
    const AllocationMap map = filled_map();
    memory = map.memory_bytes();
  }
  state.counters["memory_bytes"] = static_cast<double>(memory);
  state.counters["extents"] = static_cast<double>(extents);
}
BENCHMARK(fill_whole_disk)->Unit(benchmark::kMillisecond)->Repetitions(5);

}  // namespace
}  // namespace limaquota

BENCHMARK_MAIN();
