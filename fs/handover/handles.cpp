#include "fs/handover/handles.hpp"

namespace limaquota {
namespace {
constexpr unsigned generation_shift = 33;
}  // namespace

uint64_t handle_of(int fd, DescriptorUse use, Notes& notes, Replay& replay) {
  DescriptorNote& descriptor = notes.descriptors.of(fd);
  replay.note_opened(fd);
  descriptor.set_use(use);
  return static_cast<uint64_t>(fd) | uint64_t{descriptor.generation()} << generation_shift;
}

bool give_back_handle(uint64_t handle, Notes& notes) {
  const int fd = descriptor_of(handle);
  const auto generation = static_cast<uint32_t>(handle >> generation_shift);
  DescriptorNote& descriptor = notes.descriptors.of(fd);
  if (descriptor.generation() != generation) return false;
  // It may stand yet in the note of a thread that died after its answer.
  notes.requests.forget_opened(fd);
  return descriptor.end_use(generation);
}

}  // namespace limaquota
