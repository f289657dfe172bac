#include "accounting/template.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <limits>

#include "accounting/escape.hpp"
#include "accounting/size_text.hpp"
#include "accounting/template_yaml.hpp"

namespace limaquota {
namespace {

constexpr Bytes largest_file{static_cast<uint64_t>(std::numeric_limits<int64_t>::max())};

std::string text_at(const YamlFacts& facts, std::string_view path) {
  const std::string* value = facts.find(path);
  return value == nullptr ? "" : *value;
}

// A list whose entries are either a text or a mapping with the text at `key`; a lone text is a list of one.
std::vector<std::string> texts_at(const YamlFacts& facts, std::string_view path, std::string_view key) {
  std::vector<std::string> texts;
  if (const std::string* lone = facts.find(path)) texts.push_back(*lone);
  for (size_t i = 0; i < facts.entries(path); ++i) {
    std::string text = text_at(facts, fmt::format("{}[{}]", path, i));
    if (text.empty()) text = text_at(facts, fmt::format("{}[{}].{}", path, i, key));
    if (!text.empty()) texts.push_back(std::move(text));
  }
  return texts;
}

void add_new(std::vector<std::string>& names, const std::vector<std::string>& others) {
  for (const std::string& name : others) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
}

}  // namespace

Parsed<Template> parse_template(std::string_view text) {
  const Parsed<YamlFacts> parsed =
      read_yaml(text, {"disk", "arch", "base", "additionalDisks", "images", "<<"});
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  const auto& facts = std::get<YamlFacts>(parsed);
  Template result;
  if (const std::string disk = text_at(facts, "disk"); !disk.empty()) {
    result.disk = parse_size(disk);
    if (!result.disk || *result.disk > largest_file) {
      return ParseError{fmt::format("disk: '{}' is no size", escape_name(disk))};
    }
  }
  result.arch = text_at(facts, "arch");
  if (result.arch == "default") result.arch.clear();
  result.bases = texts_at(facts, "base", "url");
  if (const std::string url = text_at(facts, "base.url"); !url.empty()) result.bases.push_back(url);
  add_new(result.additional_disks, texts_at(facts, "additionalDisks", "name"));
  for (size_t i = 0; i < facts.entries("images"); ++i) {
    result.images.push_back({text_at(facts, fmt::format("images[{}].location", i)),
                             text_at(facts, fmt::format("images[{}].arch", i))});
  }
  return result;
}

Template fill_in(Template above, const Template& below) {
  if (!above.disk) above.disk = below.disk;
  if (above.arch.empty()) above.arch = below.arch;
  add_new(above.additional_disks, below.additional_disks);
  above.images.insert(above.images.end(), below.images.begin(), below.images.end());
  return above;
}

const TemplateImage* image_for(const Template& from, std::string_view host_arch) {
  const std::string_view arch = from.arch.empty() ? host_arch : std::string_view(from.arch);
  for (const TemplateImage& image : from.images) {
    if (!image.location.empty() && (image.arch.empty() || image.arch == arch)) return &image;
  }
  return nullptr;
}

}  // namespace limaquota
