// JSON values, and the two of their functions that take longest to compile: once, in json.cpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "accounting/json_fwd.hpp"

namespace limaquota {

// One line, or a line a member, each level indented by so many spaces. Bytes that are no UTF-8, which names
// of files may hold, become U+FFFD.
std::string json_text(const Json& json, int indent = -1);

// The same in one line, where another text would name something else. Throws Json::exception for such bytes.
std::string exact_json_text(const Json& json);

// A value that `is_discarded()` where the text is no JSON.
Json parse_json(std::string_view text);

}  // namespace limaquota
