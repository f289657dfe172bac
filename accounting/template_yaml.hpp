// The scalars of a YAML text by their path, for files that anybody may have written: Lima's templates,
// limaquota's profiles. No tree of nodes is built (a hostile text would make it hundreds of times its own
// size), and aliases are never followed.
// Pure functions and values; thread safe.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

#include "accounting/limits.hpp"

namespace limaquota {

inline constexpr size_t longest_yaml = size_t{1024} * 1024;  // bytes

// Paths look like `images[0].location`. Of a key that stands twice the first counts.
struct YamlFacts {
  std::map<std::string, std::string, std::less<>> scalars;  // null values are absent
  std::map<std::string, size_t, std::less<>> lists;         // sequences: how many entries

  // The scalar at the path, or null.
  const std::string* find(std::string_view path) const;
  size_t entries(std::string_view path) const;  // 0 where there is no sequence
};

// Reads the first document. Only what is below the `wanted` top-level keys is kept (none named: all of them);
// a ParseError says what is wrong there: a text over longest_yaml, no YAML, no mapping, an alias, too many
// entries. An empty text has no facts.
Parsed<YamlFacts> read_yaml(std::string_view text, std::initializer_list<std::string_view> wanted);

}  // namespace limaquota
