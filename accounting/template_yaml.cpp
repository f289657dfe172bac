#include "accounting/template_yaml.hpp"

#include <fmt/core.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "accounting/escape.hpp"

namespace limaquota {
namespace {

constexpr size_t most_facts = 4096;
constexpr size_t longest_path = 256;

struct BadYaml : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class FactListener : public YAML::EventHandler {
 public:
  explicit FactListener(std::initializer_list<std::string_view> wanted) : wanted_(wanted) {}
  YamlFacts take() { return std::move(facts_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { scalar(mark, nullptr); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    if (const std::optional<std::string> path = begin(mark, nullptr)) {
      throw BadYaml(fmt::format("line {}: aliases are not read; write the value out", mark.line + 1));
    }
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                const std::string& value) override {
    scalar(mark, &value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, false);
  }
  void OnSequenceEnd() override {
    if (facts_.lists.size() >= most_facts) throw BadYaml("too many entries");
    if (levels_.back().path) facts_.lists.emplace(*levels_.back().path, levels_.back().index);
    levels_.pop_back();
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, true);
  }
  void OnMapEnd() override { levels_.pop_back(); }

 private:
  // A mapping or sequence that is open.
  struct Level {
    std::optional<std::string> path;  // nothing: what is in it is not kept
    bool is_mapping = false;
    bool expects_key = true;
    std::optional<std::string> key;  // the last one; nothing where it is no scalar
    size_t index = 0;
  };

  void scalar(const YAML::Mark& mark, const std::string* value) {
    const std::optional<std::string> path = begin(mark, value);
    if (!path || value == nullptr) return;
    if (facts_.scalars.size() >= most_facts) throw BadYaml("too many entries");
    facts_.scalars.emplace(*path, *value);
  }

  void open(const YAML::Mark& mark, bool is_mapping) {
    if (levels_.empty() && !is_mapping) throw BadYaml("it is no mapping of keys to values");
    std::optional<std::string> path = levels_.empty() ? std::string() : begin(mark, nullptr);
    levels_.push_back({std::move(path), is_mapping, true, std::nullopt, 0});
  }

  // A node begins inside the innermost level. Its path, where it is a value that is kept.
  std::optional<std::string> begin(const YAML::Mark& mark, const std::string* value) {
    if (levels_.empty()) {
      if (value == nullptr) return std::nullopt;  // an empty document
      throw BadYaml(fmt::format("line {}: it is no mapping of keys to values", mark.line + 1));
    }
    Level& level = levels_.back();
    std::string path;
    if (level.is_mapping) {
      level.expects_key = !level.expects_key;
      if (!level.expects_key) {
        // In one step: a string that was given up and set again GCC 14 takes for uninitialized.
        if (value != nullptr)
          level.key = *value;
        else
          level.key.reset();
        return std::nullopt;
      }
      if (!level.path || !level.key || (levels_.size() == 1 && !is_wanted(*level.key))) return std::nullopt;
      if (level.path->size() + level.key->size() >= longest_path) return std::nullopt;
      path = level.path->empty() ? *level.key : *level.path + "." + *level.key;
    } else {
      const size_t index = level.index++;
      if (!level.path) return std::nullopt;
      if (index >= most_facts) throw BadYaml("too many entries");
      path = fmt::format("{}[{}]", *level.path, index);
    }
    return path.size() < longest_path ? std::optional(path) : std::nullopt;
  }

  bool is_wanted(const std::string& key) const {
    return wanted_.size() == 0 || std::find(wanted_.begin(), wanted_.end(), key) != wanted_.end();
  }

  std::initializer_list<std::string_view> wanted_;
  std::vector<Level> levels_;
  YamlFacts facts_;
};

}  // namespace

const std::string* YamlFacts::find(std::string_view path) const {
  const auto found = scalars.find(path);
  return found == scalars.end() ? nullptr : &found->second;
}

size_t YamlFacts::entries(std::string_view path) const {
  const auto found = lists.find(path);
  return found == lists.end() ? 0 : found->second;
}

Parsed<YamlFacts> read_yaml(std::string_view text, std::initializer_list<std::string_view> wanted) {
  if (text.size() > longest_yaml) return ParseError{"it is over 1 MiB: no template is"};
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    FactListener listener(wanted);
    parser.HandleNextDocument(listener);
    return listener.take();
  } catch (const YAML::Exception& error) {  // bad syntax, and deep nesting
    return ParseError{
        fmt::format("line {}: not YAML: {}", error.mark.line + 1, escape_words(error.msg))};  // it quotes
  } catch (const std::exception& error) {
    return ParseError{error.what()};
  }
}

}  // namespace limaquota
