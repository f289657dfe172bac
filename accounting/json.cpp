#include "accounting/json.hpp"

namespace limaquota {

std::string json_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string exact_json_text(const Json& json) { return json.dump(); }

Json parse_json(std::string_view text) { return Json::parse(text, nullptr, false); }

}  // namespace limaquota
