#include "fs/handover/kept_text.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

namespace limaquota {

KeptText::KeptText(uint64_t handle, std::string text, Notes& notes) : notes_(&notes), text_(std::move(text)) {
  Fd file(::memfd_create("limaquota-usage", MFD_CLOEXEC));
  if (!file || ::write(file.get(), text_.data(), text_.size()) != static_cast<ssize_t>(text_.size())) return;
  notes.descriptors.of(file.get()).lookups = handle;
  notes.descriptors.of(file.get()).set_use(DescriptorUse::text);
  file_ = std::move(file);
  text_.clear();
}

KeptText& KeptText::operator=(KeptText&& other) noexcept {
  drop();
  notes_ = other.notes_;
  file_ = std::move(other.file_);
  text_ = std::move(other.text_);
  return *this;
}

// Its note goes before it is closed: the number may be another file's at once.
void KeptText::drop() {
  if (file_) notes_->descriptors.of(file_.get()).set_use(DescriptorUse::passing);
  file_.reset();
}

uint64_t KeptText::handle_of(int descriptor, Notes& notes) {
  return notes.descriptors.of(descriptor).lookups;
}

std::string KeptText::part(size_t size, uint64_t offset) const {
  if (!file_) return offset < text_.size() ? text_.substr(offset, size) : std::string();
  std::string part(size, 0);
  const ssize_t got = ::pread(file_.get(), part.data(), size, static_cast<off_t>(offset));
  part.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return part;
}

}  // namespace limaquota
