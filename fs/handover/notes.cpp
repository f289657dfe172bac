#include "fs/handover/notes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

namespace limaquota {
namespace {

// In the id of a request that the kernel sends again (FUSE_UNIQUE_RESEND, Linux 6.9).
constexpr uint64_t sent_again = uint64_t{1} << 63;
constexpr unsigned generation_shift = 33;

thread_local Handover::Slot* own_slot = nullptr;
thread_local std::optional<Intent> earlier_intent;

thread_local int earlier_opened = -1;

// Gives the slot back at the end of its thread.
struct SlotOwner {
  ~SlotOwner() {
    if (own_slot != nullptr) own_slot->taken = false;
  }
};

Handover::Slot* slot() {
  if (handover == nullptr) return nullptr;
  if (own_slot == nullptr) {
    thread_local SlotOwner owner;
    (void)&owner;
    own_slot = handover->take_slot();
  }
  return own_slot;
}

void note(Handover::Slot& slot, const Intent& intent) {
  slot.first = intent.first;
  slot.second = intent.second;
  slot.third = intent.third;
  slot.intended = true;
}

// What the slot of a dead thread says of this request goes to the one that serves it now, before it is taken
// from there.
void take_over(Handover::Slot& own, uint64_t unique) {
  for (Handover::Slot& old : handover->used_slots()) {
    if (old.unique != unique || &old == &own) continue;
    if (old.intended) {
      earlier_intent = Intent{old.first, old.second, old.third};
      note(own, *earlier_intent);
    }
    own.opened = old.opened.load();
    earlier_opened = own.opened - 1;
    own.unique = unique;
    old.unique = 0;
    return;
  }
}

// Nobody who maps it need fear that it shrinks.
constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Handover* mapped(int notes, int protection) {
  void* memory = ::mmap(nullptr, sizeof(Handover), protection, MAP_SHARED | MAP_NORESERVE, notes, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<Handover*>(memory);
}

// The size tells what nobody counted.
constexpr uint64_t own_layout = Handover::version << 40 | sizeof(Handover);

}  // namespace

Handover* handover = nullptr;

Handover* Handover::make() {
  Fd notes(::memfd_create(memory_name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  std::signal(SIGXFSZ, SIG_IGN);  // where files may not be so large: an error is enough
  if (!notes || ::ftruncate(notes.get(), sizeof(Handover)) != 0 ||
      ::fcntl(notes.get(), F_ADD_SEALS, seals) != 0)
    return nullptr;
  // All of it is zero, which is what each part starts as.
  Handover* made = mapped(notes.get(), PROT_READ | PROT_WRITE);
  if (made == nullptr) return nullptr;
  made->layout = own_layout;
  made->notes = notes.release();
  return made;
}

Handover* Handover::map(int notes, bool to_go_on) {
  struct stat st {};
  if (::fstat(notes, &st) != 0 || st.st_size != sizeof(Handover)) return nullptr;
  if (const int has = ::fcntl(notes, F_GET_SEALS); has < 0 || (has & seals) != seals) return nullptr;
  Handover* known = mapped(notes, to_go_on ? PROT_READ | PROT_WRITE : PROT_READ);
  if (known == nullptr || known->layout == own_layout) return known;
  ::munmap(known, sizeof(Handover));
  return nullptr;
}

bool Handover::keep_words(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all.append(word).push_back('\0');
  if (all.size() > most_words) return false;
  std::memcpy(words_, all.data(), all.size());
  words_bytes_ = all.size();
  return true;
}

std::vector<std::string> Handover::words() const {
  std::vector<std::string> words;
  const std::string_view all(words_, std::min(words_bytes_, most_words));
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\0', at), all.size());
    words.emplace_back(all.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

Handover::Slot* Handover::take_slot() {
  for (uint32_t i = 0; i < most_slots; ++i) {
    if (slots_[i].unique != 0 || slots_[i].taken.exchange(true)) continue;
    uint32_t used = slots_used_;
    while (used <= i && !slots_used_.compare_exchange_weak(used, i + 1)) {
    }
    return &slots_[i];
  }
  return nullptr;
}

bool Handover::Descriptor::end_use(uint32_t generation) {
  uint32_t now = state_;
  if (now >> use_bits != generation) return false;
  const uint32_t ended = (generation + 1) << use_bits | static_cast<uint32_t>(DescriptorUse::passing);
  return state_.compare_exchange_strong(now, ended);
}

Result<std::vector<int>> open_descriptors() {
  std::vector<int> all;
  DIR* list = ::opendir("/proc/self/fd");
  if (list == nullptr) return Errno{errno};
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(list);
    if (entry == nullptr) break;
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != ::dirfd(list)) all.push_back(fd);
  }
  const int failed = errno;
  ::closedir(list);
  if (failed != 0) return Errno{failed};
  return all;
}

Result<std::vector<int>> Handover::inherit() {
  const auto all = open_descriptors();
  if (!all) return all.error();
  std::vector<int> inherited;
  for (const int fd : *all) {
    const DescriptorUse use = descriptor(fd).use();
    if (use == DescriptorUse::lasting) continue;
    if (use != DescriptorUse::passing) {
      inherited.push_back(fd);
    } else if (!is_opened(fd)) {  // what was opened for a request that comes again waits for it
      ::close(fd);
    }
  }
  return inherited;
}

void Handover::release_slots() {
  constexpr uint32_t remembered_restarts = 1000;
  for (Slot& one : used_slots()) {
    one.taken = false;
    // Answered in the moment of the kill: it never comes again.
    if (restarts - one.served > remembered_restarts) one.unique = 0;
  }
}

bool Handover::is_opened(int fd) const {
  return std::any_of(slots_, slots_ + slots_used_,
                     [&](const Slot& one) { return one.unique != 0 && one.opened == fd + 1; });
}

void Handover::forget_opened(int fd) {
  for (Slot& one : used_slots()) {
    int known = fd + 1;
    one.opened.compare_exchange_strong(known, 0);
  }
}

void Handover::keep_text(std::string_view text) {
  const uint32_t next = text_now_ ^ 1U;
  const size_t bytes = std::min(text.size(), most_text);
  std::memcpy(texts_[next], text.data(), bytes);
  text_bytes_[next] = bytes;
  text_now_.store(next, std::memory_order_release);
}

std::string Handover::kept_text() const {
  const uint32_t now = text_now_;
  return {texts_[now], text_bytes_[now]};
}

uint32_t Handover::account_index(std::string_view name) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const uint32_t count = accounts_;
  if (name.size() >= longest_name) return 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (name == account_names_[i]) return i + 1;
  }
  if (count == most_accounts) return 0;
  std::memcpy(account_names_[count], name.data(), name.size());
  account_names_[count][name.size()] = 0;
  accounts_.store(count + 1, std::memory_order_release);
  return count + 1;
}

std::string Handover::account_name(uint32_t index) const {
  return index == 0 || index > accounts_ ? std::string() : std::string(account_names_[index - 1]);
}

InService::InService(uint64_t unique, bool creates) {
  Handover::Slot* own = slot();
  if (own == nullptr) return;
  const uint64_t plain = unique & ~sent_again;
  own->intended = false;
  own->opened = 0;
  own->served = handover->restarts.load();
  earlier_intent.reset();
  earlier_opened = -1;
  if ((unique & sent_again) != 0) take_over(*own, plain);
  own->unique = plain;
  if (!creates) close_opened_before();
}

InService::~InService() {
  close_opened_before();
  earlier_intent.reset();
  if (own_slot != nullptr) own_slot->unique = 0;
}

void InService::note_opened(int fd) {
  if (own_slot != nullptr) own_slot->opened = fd + 1;
}

Fd InService::opened_before() {
  const int fd = std::exchange(earlier_opened, -1);
  if (fd < 0) return Fd();
  if (handover->descriptor(fd).use() != DescriptorUse::passing && on_never_known) on_never_known(fd);
  handover->descriptor(fd).set_use(DescriptorUse::passing);
  return Fd(fd);
}

// Its note goes before it is closed: the number may be another file's at once.
void InService::close_opened_before() {
  const Fd closing = opened_before();
  if (closing) note_opened(-1);
}

std::function<void(int)> InService::on_never_known;

bool InService::noting() { return own_slot != nullptr; }

std::optional<Intent> InService::earlier() { return earlier_intent; }

void InService::intend(Intent intent) {
  if (own_slot != nullptr) note(*own_slot, intent);
}

uint64_t handle_of(int fd, DescriptorUse use) {
  if (handover == nullptr) return static_cast<uint64_t>(fd);
  Handover::Descriptor& descriptor = handover->descriptor(fd);
  InService::note_opened(fd);
  descriptor.set_use(use);
  return static_cast<uint64_t>(fd) | uint64_t{descriptor.generation()} << generation_shift;
}

bool give_back_handle(uint64_t handle) {
  if (handover == nullptr) return true;
  const int fd = descriptor_of(handle);
  const auto generation = static_cast<uint32_t>(handle >> generation_shift);
  if (handover->descriptor(fd).generation() != generation) return false;
  // It may stand yet in the slot of a thread that died after its answer.
  handover->forget_opened(fd);
  return handover->descriptor(fd).end_use(generation);
}

}  // namespace limaquota
