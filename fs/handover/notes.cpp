#include "fs/handover/notes.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <new>

#include "fs/system/fd.hpp"

namespace limaquota {
namespace {

// Nobody who maps it need fear that it shrinks.
constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Notes* mapped(int descriptor, int protection) {
  void* memory = ::mmap(nullptr, sizeof(Notes), protection, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<Notes*>(memory);
}

// The size tells what nobody counted.
constexpr uint64_t own_layout = Notes::version << 40 | sizeof(Notes);

}  // namespace

Notes* Notes::make() {
  Fd memory(::memfd_create(memory_name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  std::signal(SIGXFSZ, SIG_IGN);  // where files may not be so large: an error is enough
  if (!memory || ::ftruncate(memory.get(), sizeof(Notes)) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, seals) != 0)
    return nullptr;
  Notes* made = mapped(memory.get(), PROT_READ | PROT_WRITE);
  if (made == nullptr) return nullptr;
  made->layout = own_layout;
  made->descriptor = memory.release();
  return made;
}

Notes* Notes::map(int descriptor, Purpose purpose) {
  struct stat st {};
  if (::fstat(descriptor, &st) != 0 || st.st_size != sizeof(Notes)) return nullptr;
  if (const int has = ::fcntl(descriptor, F_GET_SEALS); has < 0 || (has & seals) != seals) return nullptr;
  Notes* known = mapped(descriptor, purpose == Purpose::going_on ? PROT_READ | PROT_WRITE : PROT_READ);
  if (known == nullptr || known->layout == own_layout) return known;
  ::munmap(known, sizeof(Notes));
  return nullptr;
}

void Notes::Unmap::operator()(Notes* notes) const { ::munmap(notes, sizeof(Notes)); }

std::unique_ptr<Notes, Notes::Unmap> Notes::unshared() {
  void* memory = ::mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return std::unique_ptr<Notes, Unmap>(static_cast<Notes*>(memory));
}

Result<std::vector<int>> Notes::inherit() {
  const auto all = open_descriptors();
  if (!all) return all.error();
  std::vector<int> inherited;
  for (const int fd : *all) {
    const DescriptorUse use = descriptors.of(fd).use();
    if (use == DescriptorUse::lasting) continue;
    if (use != DescriptorUse::passing) {
      inherited.push_back(fd);
    } else if (!requests.is_opened(fd)) {  // what was opened for a request that comes again waits for it
      ::close(fd);
    }
  }
  return inherited;
}

}  // namespace limaquota
