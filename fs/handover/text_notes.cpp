#include "fs/handover/text_notes.hpp"

#include <algorithm>
#include <cstring>

namespace limaquota {

void TextNote::write(std::string_view text) {
  const uint32_t next = now_ ^ 1U;
  const size_t bytes = std::min(text.size(), most);
  std::memcpy(texts_[next], text.data(), bytes);
  bytes_[next] = bytes;
  now_.store(next, std::memory_order_release);
}

std::string TextNote::read() const {
  const uint32_t now = now_;
  return {texts_[now], bytes_[now]};
}

bool WordsNote::write(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all.append(word).push_back('\0');
  if (all.size() > most) return false;
  std::memcpy(words_, all.data(), all.size());
  bytes_ = all.size();
  return true;
}

std::vector<std::string> WordsNote::read() const {
  std::vector<std::string> words;
  const std::string_view all(words_, std::min(bytes_, most));
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\0', at), all.size());
    words.emplace_back(all.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

}  // namespace limaquota
