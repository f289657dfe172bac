#include "accounting/names.hpp"

#include <algorithm>

#include "accounting/escape.hpp"

namespace limaquota {
namespace {

bool is_octal(char c) { return c >= '0' && c <= '7'; }

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_@%+:,./-=").find(c) != std::string_view::npos;
}

// Without the blanks and backslashes that escape_name() escapes too.
bool is_printable(std::string_view name) {
  std::string rest(name);
  std::erase_if(rest, [](char c) { return c == ' ' || c == '\\'; });
  return escape_name(rest) == rest;
}

}  // namespace

std::string unescape_name(std::string_view text) {
  std::string name;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) &&
                         is_octal(text[i + 2]) && is_octal(text[i + 3]);
    if (escaped) {
      name += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      name += text[i];
    }
  }
  return name;
}

std::string shell_quoted(std::string_view name) {
  if (!name.empty() && std::all_of(name.begin(), name.end(), is_plain)) return std::string(name);
  if (!is_printable(name)) {
    std::string word = "$'";
    for (const char c : escape_name(name)) word += c == '\'' ? "\\'" : std::string(1, c);
    return word + "'";
  }
  std::string word = "'";
  for (const char c : name) word += c == '\'' ? "'\\''" : std::string(1, c);
  return word + "'";
}

}  // namespace limaquota
