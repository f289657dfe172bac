#include "accounting/profile.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "accounting/escape.hpp"
#include "accounting/size_text.hpp"
#include "accounting/template_yaml.hpp"

namespace limaquota {
namespace {

constexpr std::array<std::string_view, 12> known_keys = {
    "limit",    "temporary", "image",        "advice",        "must[]",       "beside[]",
    "zfs.file", "zfs.quota", "lines[].name", "lines[].bytes", "lines[].peak", "lines[].steady"};

struct BadProfile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "lines[3].name" becomes "lines[].name".
std::string without_indices(std::string_view path) {
  std::string plain;
  bool inside = false;
  for (const char c : path) {
    if (c == ']') inside = false;
    if (!inside) plain += c;
    if (c == '[') inside = true;
  }
  return plain;
}

Bytes size_of(std::string_view path, std::string_view text) {
  if (const std::optional<Bytes> size = parse_size(text)) return *size;
  throw BadProfile(fmt::format("{}: '{}' is no size (such as 1.5GiB)", escape_name(path), escape_name(text)));
}

std::optional<Bytes> size_at(const YamlFacts& facts, std::string_view path) {
  const std::string* text = facts.find(path);
  if (text == nullptr) return std::nullopt;
  return size_of(path, *text);
}

// "6GiB", or "6GiB to 8GiB".
std::optional<Estimate> estimate_at(const YamlFacts& facts, const std::string& path) {
  const std::string* text = facts.find(path);
  if (text == nullptr) return std::nullopt;
  const size_t to = text->find(" to ");
  const Bytes low = size_of(path, text->substr(0, to));
  const Bytes high = to == std::string::npos ? low : size_of(path, text->substr(to + 4));
  if (high < low) throw BadProfile(fmt::format("{}: '{}' goes down", path, escape_name(*text)));
  return Estimate{low, high};
}

std::vector<std::string> list_at(const YamlFacts& facts, std::string_view path) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < facts.entries(path); ++i) {
    if (const std::string* text = facts.find(fmt::format("{}[{}]", path, i))) texts.push_back(*text);
  }
  return texts;
}

ProfileLine line_at(const YamlFacts& facts, size_t index) {
  const std::string path = fmt::format("lines[{}]", index);
  const std::string* name = facts.find(path + ".name");
  if (name == nullptr) throw BadProfile(path + ": it has no name");
  const auto bytes = estimate_at(facts, path + ".bytes");
  const auto peak = estimate_at(facts, path + ".peak");
  const auto steady = estimate_at(facts, path + ".steady");
  if (bytes.has_value() == (peak.has_value() || steady.has_value())) {
    throw BadProfile(path + ": say either bytes, or peak and steady");
  }
  if (bytes) return {*name, *bytes, *bytes};
  return {*name, peak.value_or(Estimate{}), steady.value_or(Estimate{})};
}

Profile profile_from(const YamlFacts& facts) {
  for (const auto& [path, value] : facts.scalars) {
    if (std::find(known_keys.begin(), known_keys.end(), without_indices(path)) == known_keys.end()) {
      throw BadProfile(fmt::format(
          "unknown key '{}' (limit, temporary, image, advice, must, beside, zfs, lines)", escape_name(path)));
    }
  }
  Profile profile;
  profile.limit = size_at(facts, "limit");
  profile.image = size_at(facts, "image");
  if (const std::string* temporary = facts.find("temporary")) {
    if (*temporary != "true" && *temporary != "false") throw BadProfile("temporary: say true or false");
    profile.temporary = *temporary == "true";
  }
  if (const std::string* advice = facts.find("advice")) profile.advice = *advice;
  profile.must = list_at(facts, "must");
  profile.beside = list_at(facts, "beside");
  if (const std::optional<Bytes> file = size_at(facts, "zfs.file")) {
    profile.zfs = {*file, size_at(facts, "zfs.quota")};
  } else if (facts.find("zfs.quota") != nullptr) {
    throw BadProfile("zfs: the size of its files is missing (file: 256MiB)");
  }
  for (size_t i = 0; i < facts.entries("lines"); ++i) profile.lines.push_back(line_at(facts, i));
  return profile;
}

Estimate sum(const std::vector<ProfileLine>& lines, Estimate ProfileLine::*which) {
  Estimate total;
  for (const ProfileLine& line : lines) total = plus(total, line.*which);
  return total;
}

}  // namespace

Estimate plus(Estimate a, Estimate b) {
  return {plus_or_unlimited(a.low, b.low), plus_or_unlimited(a.high, b.high)};
}

Estimate Profile::peak() const { return sum(lines, &ProfileLine::peak); }
Estimate Profile::steady() const { return sum(lines, &ProfileLine::steady); }

Parsed<Profile> parse_profile(std::string_view text) {
  const Parsed<YamlFacts> parsed = read_yaml(text, {});
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  try {
    return profile_from(std::get<YamlFacts>(parsed));
  } catch (const BadProfile& error) {
    return ParseError{error.what()};
  }
}

}  // namespace limaquota
