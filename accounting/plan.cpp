#include "accounting/plan.hpp"

#include <algorithm>
#include <bit>

namespace limaquota {
namespace {

constexpr Bytes unlimited = Bytes::unlimited();

// left / of < percent / 100, without overflow.
bool is_below(Bytes left, Bytes of, unsigned percent) {
  return static_cast<double>(left.count()) * 100 < static_cast<double>(of.count()) * percent;
}

Fit fit_of(const PlanAnswer& answer, const HostRoom& room) {
  if (answer.missing.count() > 0) return Fit::does_not_fit;
  const Bytes left_at_worst = minus_or_zero(room.free, answer.needed_at_worst);
  const bool worst_fits = answer.overcommitted.count() == 0;
  if (is_below(answer.left, room.free, 2)) return Fit::very_tight;
  if (is_below(answer.left, room.free, 10)) return Fit::tight;
  if (worst_fits && is_below(left_at_worst, room.free, 10)) return Fit::tight;
  return worst_fits && !is_below(left_at_worst, room.free, 50) ? Fit::plenty : Fit::fits;
}

constexpr Bytes labels = Bytes(4096 * 1024 + 512 * 1024);
constexpr unsigned smallest_metaslab_shift = 24, usual_metaslab_shift = 29, largest_metaslab_shift = 34;
constexpr uint64_t fewest_metaslabs = 16, usual_metaslabs = 200;
constexpr Bytes largest_pool = Bytes(uint64_t{1} << 60);
constexpr Bytes smallest_slop = Bytes(128ULL * 1024 * 1024);

unsigned metaslab_shift(uint64_t bytes) {
  const uint64_t count = bytes >> usual_metaslab_shift;
  unsigned shift = usual_metaslab_shift;
  if (count < fewest_metaslabs) {
    shift = static_cast<unsigned>(std::bit_width(bytes / fewest_metaslabs));
  } else if (count > usual_metaslabs) {
    shift = static_cast<unsigned>(std::bit_width(bytes / usual_metaslabs));
  }
  return std::clamp(shift, smallest_metaslab_shift, largest_metaslab_shift);
}

}  // namespace

Bytes PlannedVm::worst_case() const { return minus_or_zero(std::min(limit, virtual_size), present); }

std::string_view to_string(Fit fit) {
  switch (fit) {
    case Fit::plenty:
      return "fits, plenty left";
    case Fit::fits:
      return "fits";
    case Fit::tight:
      return "fits, tight";
    case Fit::very_tight:
      return "fits, very tight";
    default:
      return "does not fit";
  }
}

PlanAnswer plan_for(std::span<const PlannedVm> vms, Bytes images, const HostRoom& room) {
  PlanAnswer answer;
  const Bytes beside = plus_or_unlimited(images, room.reserve);
  Bytes added;
  for (const PlannedVm& vm : vms) {
    answer.virtual_size = plus_or_unlimited(answer.virtual_size, vm.virtual_size);
    answer.limit = plus_or_unlimited(answer.limit, vm.limit);
    answer.peak = plus(answer.peak, vm.peak);
    answer.steady = plus(answer.steady, vm.steady);
    if (!vm.temporary) answer.kept = plus(answer.kept, vm.steady);
    answer.worst_case = plus_or_unlimited(answer.worst_case, vm.worst_case());
    added = plus_or_unlimited(added, minus_or_zero(vm.peak.high, vm.present));
  }
  answer.needed = plus_or_unlimited(added, beside);
  answer.left = minus_or_zero(room.free, answer.needed);
  answer.missing = minus_or_zero(answer.needed, room.free);
  answer.needed_at_worst = plus_or_unlimited(plus_or_unlimited(answer.worst_case, room.growth), beside);
  answer.overcommitted =
      answer.needed_at_worst == unlimited ? unlimited : minus_or_zero(answer.needed_at_worst, room.free);
  answer.fit = fit_of(answer, room);
  return answer;
}

Bytes zfs_mirror_usable(Bytes file) {
  const uint64_t bytes = minus_or_zero(file, labels).count();
  const unsigned shift = metaslab_shift(bytes);
  const Bytes space(bytes >> shift << shift);
  const Bytes slop = std::max(Bytes(space.count() / 32), std::min(Bytes(space.count() / 2), smallest_slop));
  return space - slop;
}

Bytes zfs_mirror_file_for(Bytes usable) {
  const Bytes step = std::max(Bytes(1024 * 1024), round_up(Bytes(usable.count() / 1024), Bytes(1024 * 1024)));
  if (usable > largest_pool) return Bytes::unlimited();
  Bytes file = round_up(usable, step);
  while (zfs_mirror_usable(file) < usable) file = plus_or_unlimited(file, step);
  return file;
}

}  // namespace limaquota
