#include "accounting/escape.hpp"

#include <fmt/core.h>

#include <algorithm>

namespace limaquota {
namespace {

// The length of the UTF-8 sequence at the front, or 0 where there is none (overlong forms, surrogates and
// what lies beyond U+10FFFF are none).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(1);
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool outside = (lead == 0xed && second > 0x9f) || (lead == 0xf4 && second > 0x8f);
  return overlong || outside ? 0 : length;
}

// Control characters: C0, DEL, C1 (terminals obey those too) and the line separators U+2028 and U+2029.
bool is_control(std::string_view character) {
  if (character.size() == 1) return character[0] < ' ' || character[0] == 0x7f;
  return (character[0] == '\xc2' && static_cast<unsigned char>(character[1]) < 0xa0) ||
         character == "\u2028" || character == "\u2029";
}

// Calls `visit` with each character of a name, or with a single byte that is none (`valid` is false then).
template <class Visit>
void for_each_character(std::string_view name, Visit visit) {
  while (!name.empty()) {
    const size_t length = utf8_length(name);
    visit(name.substr(0, length == 0 ? 1 : length), length != 0);
    name.remove_prefix(length == 0 ? 1 : length);
  }
}

void append_octal(std::string& text, std::string_view bytes) {
  for (const char c : bytes) text += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
}

}  // namespace

bool is_utf8(std::string_view name) {
  bool all_valid = true;
  for_each_character(name, [&](std::string_view, bool valid) { all_valid = all_valid && valid; });
  return all_valid;
}

std::string escape_name(std::string_view name) {
  std::string text;
  for_each_character(name, [&](std::string_view character, bool valid) {
    if (!valid || is_control(character) || character == " " || character == "\\") {
      append_octal(text, character);
    } else {
      text += character;
    }
  });
  return text;
}

std::string escape_words(std::string_view text) {
  std::string words;
  for (size_t start = 0; start <= text.size();) {
    const size_t blank = std::min(text.find(' ', start), text.size());
    words += (start == 0 ? "" : " ") + escape_name(text.substr(start, blank - start));
    start = blank + 1;
  }
  return words;
}

std::string escape_label(std::string_view value) {
  std::string text;
  for_each_character(value, [&](std::string_view character, bool valid) {
    if (!valid) {
      text += '\\';
      append_octal(text, character);
    } else if (character == "\n") {
      text += "\\n";
    } else {
      if (character == "\\" || character == "\"") text += '\\';
      text += character;
    }
  });
  return text;
}

}  // namespace limaquota
