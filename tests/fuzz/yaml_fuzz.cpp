// lima.yaml, templates and their profiles.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>

#include "accounting/lima_yaml.hpp"
#include "accounting/plan.hpp"
#include "accounting/profile.hpp"
#include "accounting/template.hpp"
#include "accounting/template_yaml.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace limaquota::fuzz {
namespace {

constexpr Bytes largest_file{static_cast<uint64_t>(std::numeric_limits<int64_t>::max())};

bool check_lima_yaml(const std::string& text) {
  const std::optional<Bytes> size = lima_yaml_disk_size(text);
  EXPECT_TRUE(!size || *size <= largest_file);
  const Parsed<Template> parsed = parse_template(text);
  if (const auto* from = std::get_if<Template>(&parsed)) {
    EXPECT_EQ(size, from->disk);
  }
  const std::optional<Bytes> before = lima_yaml_disk_size("\"disk\": \"7GiB\"\n" + text);
  EXPECT_TRUE(!before || before == 7_GiB) << "the first of two counts";
  return size.has_value();
}

TEST(FuzzLimaYaml, HasOneDiskOrNone) {
  const Corpus corpus = {
      "disk: 100GiB\ncpus: 4\n",
      "{\"disk\": \"5GiB\", \"x\": [1, 2]}",
      "images:\n- location: \"/a\"\n  arch: x86_64\ndisk: '8GiB'\nx:\n- script: |\n    true\n",
      "a: &a {b: c}\nd: *a\ndisk: !!str 1T\n",
      "%YAML 1.2\n---\n# mine\ndisk: >-\n  1.5\n  GiB\n...\n---\ndisk: 3GiB\n",
      "? disk\n: 9223372036854775807\n",
  };
  run([&](Mutator& random) { return hostile_text(random, corpus); }, check_lima_yaml);
}

template <class T>
const T* good(const Parsed<T>& parsed) {
  if (const auto* error = std::get_if<ParseError>(&parsed)) {
    EXPECT_FALSE(error->message.empty());
    EXPECT_TRUE(std::none_of(error->message.begin(), error->message.end(),
                             [](unsigned char c) { return c < ' ' || c == 0x7f; }))
        << "a control character would reach a terminal: " << error->message;
  }
  return std::get_if<T>(&parsed);
}

// What is kept of a text is bounded by the text.
void check_facts(const std::string& text) {
  const Parsed<YamlFacts> parsed = read_yaml(text, {});
  const YamlFacts* facts = good(parsed);
  if (facts == nullptr) return;
  EXPECT_LE(facts->scalars.size() + facts->lists.size(), 2 * 4096u);
  size_t bytes = 0;
  for (const auto& [path, value] : facts->scalars) {
    EXPECT_LT(path.size(), 256u);
    bytes += value.size();
  }
  EXPECT_LE(bytes, 2 * text.size());
  for (const auto& [path, entries] : facts->lists) EXPECT_LE(entries, text.size());
}

void check_plan(const Template& from, const Profile& profile) {
  PlannedVm vm;
  vm.virtual_size = from.disk.value_or(lima_default_disk);
  vm.limit = profile.limit.value_or(Bytes::unlimited());
  vm.peak = profile.peak();
  vm.steady = profile.steady();
  EXPECT_TRUE(vm.peak.low <= vm.peak.high && vm.steady.low <= vm.steady.high);
  const PlanAnswer answer = plan_for(std::vector{vm, vm}, profile.image.value_or(0_B), {1_GiB, 1_GiB, 1_GiB});
  EXPECT_GE(answer.needed, vm.peak.high);
  EXPECT_EQ(answer.fit == Fit::does_not_fit, answer.needed > 1_GiB);
  if (!profile.zfs) return;
  EXPECT_LE(zfs_mirror_usable(profile.zfs->file), profile.zfs->file);
  const Bytes quota = profile.zfs->quota.value_or(profile.zfs->file);
  const Bytes file = zfs_mirror_file_for(quota);
  EXPECT_TRUE(file.is_unlimited() || zfs_mirror_usable(file) >= quota) << quota.count();
}

bool check_template(const std::string& text) {
  check_facts(text);
  const Parsed<Template> parsed = parse_template(text);
  const Parsed<Profile> parsed_profile = parse_profile(text);
  const Template* from = good(parsed);
  const Profile* profile = good(parsed_profile);
  if (from != nullptr) {
    EXPECT_TRUE(!from->disk || *from->disk <= largest_file);
    const Template twice = fill_in(*from, *from);
    EXPECT_EQ(twice.disk, from->disk);
    EXPECT_EQ(twice.additional_disks, from->additional_disks) << "a disk counts once";
    const TemplateImage* image = image_for(*from, "x86_64");
    EXPECT_TRUE(image == nullptr || !image->location.empty());
  }
  if (profile != nullptr) check_plan(from == nullptr ? Template() : *from, *profile);
  return from != nullptr || profile != nullptr;
}

TEST(FuzzTemplate, IsBoundedByItsText) {
  const Corpus corpus = {
      "disk: 15GiB\nbase: [a, {url: b}]\nadditionalDisks: [{name: x}, y]\nimages: [{location: a, arch: b}]\n",
      "base:\n- template:debian\nimages:\n- location: https://a.b/c.qcow2\n  arch: aarch64\narch: x86_64\n",
      "limit: 4GiB\ntemporary: true\nzfs: {file: 256MiB, quota: 200MiB}\nlines:\n- {name: a, bytes: 1GiB}\n",
      "lines:\n- {name: a, peak: 1GiB to 2GiB, steady: 0}\n- {name: b, bytes: 1}\nmust: [a]\nbeside: [c]\n",
      "image: 350MiB\nadvice: \"not \\u00e9 \\L good\"\nzfs:\n  file: 1PiB\nlimit: 18446744073709551614\n"};
  run([&](Mutator& random) { return hostile_text(random, corpus); }, check_template);
}

}  // namespace
}  // namespace limaquota::fuzz
