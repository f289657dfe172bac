#include "accounting/lima_yaml.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <limits>
#include <sstream>
#include <string>

#include "accounting/size_text.hpp"

namespace limaquota {
namespace {

constexpr size_t longest_text = size_t{1024} * 1024;
constexpr Bytes largest_file{static_cast<uint64_t>(std::numeric_limits<int64_t>::max())};

// Listens to a document for the scalar at the top-level key `disk`; the first one counts. No tree of nodes is
// built (a hostile text would make it hundreds of times its own size), and aliases are never followed.
class DiskListener : public YAML::EventHandler {
 public:
  const std::optional<std::string>& disk() const { return disk_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override { take(nullptr); }
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override { take(nullptr); }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string& value) override {
    take(&value);
  }
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    take(nullptr);
    ++depth_;
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    if (depth_ == 0) is_mapping_ = true;
    take(nullptr);
    ++depth_;
  }
  void OnMapEnd() override { --depth_; }

 private:
  // A key or a value begins; null where it is not a scalar. In a mapping they take turns.
  void take(const std::string* scalar) {
    if (depth_ != 1 || !is_mapping_) return;
    if (is_key_) {
      is_disk_ = scalar != nullptr && *scalar == "disk" && !found_;
    } else if (is_disk_) {
      found_ = true;
      if (scalar != nullptr) disk_ = *scalar;
    }
    is_key_ = !is_key_;
  }

  int depth_ = 0;
  bool is_mapping_ = false;  // the document's root is one
  bool is_key_ = true;       // what comes next at depth 1
  bool is_disk_ = false;     // the last key was `disk`
  bool found_ = false;
  std::optional<std::string> disk_;
};

}  // namespace

std::optional<Bytes> lima_yaml_disk_size(std::string_view text) {
  if (text.size() > longest_text) return std::nullopt;
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    DiskListener listener;
    parser.HandleNextDocument(listener);
    if (!listener.disk()) return std::nullopt;
    const std::optional<Bytes> size = parse_size(*listener.disk());
    return size && *size <= largest_file ? size : std::nullopt;
  } catch (...) {
    // yaml-cpp throws on bad syntax and on deep nesting; every reason means "no size".
    return std::nullopt;
  }
}

}  // namespace limaquota
