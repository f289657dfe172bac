#include "accounting/lima_yaml.hpp"

#include <limits>

#include "accounting/size_text.hpp"
#include "accounting/template_yaml.hpp"

namespace limaquota {
namespace {

constexpr Bytes largest_file{static_cast<uint64_t>(std::numeric_limits<int64_t>::max())};

}  // namespace

std::optional<Bytes> lima_yaml_disk_size(std::string_view text) {
  try {
    const Parsed<YamlFacts> parsed = read_yaml(text, {"disk"});
    const auto* facts = std::get_if<YamlFacts>(&parsed);
    const std::string* disk = facts == nullptr ? nullptr : facts->find("disk");
    if (disk == nullptr) return std::nullopt;
    const std::optional<Bytes> size = parse_size(*disk);
    return size && *size <= largest_file ? size : std::nullopt;
  } catch (...) {
    return std::nullopt;  // no memory
  }
}

}  // namespace limaquota
