#include "accounting/lima_yaml.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <string>
#include <vector>

#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

constexpr size_t longest = size_t{1024} * 1024;

std::string repeated(const std::string& part, size_t bytes) {
  std::string text;
  while (text.size() + part.size() <= bytes) text += part;
  return text;
}

TEST(LimaYaml, ReadsTheTopLevelDisk) {
  EXPECT_EQ(lima_yaml_disk_size("disk: 100GiB\n"), 100_GiB);
  EXPECT_EQ(lima_yaml_disk_size("disk: \"100GiB\""), 100_GiB);
  EXPECT_EQ(lima_yaml_disk_size("disk: '1.5 GiB' # small\n"), 1536_MiB);
  EXPECT_EQ(lima_yaml_disk_size("disk: 1048576\n"), 1_MiB);
  EXPECT_EQ(lima_yaml_disk_size("{\"cpus\": 4, \"disk\": \"5GiB\"}"), 5_GiB);
  EXPECT_EQ(
      lima_yaml_disk_size("images:\n- location: disk\n  arch: x86_64\nmounts: []\ndisk: 8GiB\ncpus: 2\n"),
      8_GiB);
}

TEST(LimaYaml, IgnoresADiskElsewhere) {
  EXPECT_EQ(lima_yaml_disk_size("x:\n  disk: 1GiB\n"), std::nullopt);
  EXPECT_EQ(lima_yaml_disk_size("x: disk\ny: 1GiB\n"), std::nullopt);
  EXPECT_EQ(lima_yaml_disk_size("[disk, 1GiB]"), std::nullopt);
  EXPECT_EQ(lima_yaml_disk_size("- disk: 1GiB\n"), std::nullopt);
  EXPECT_EQ(lima_yaml_disk_size("x: {disk: 1GiB}\ndisk: 2GiB\n"), 2_GiB);
  EXPECT_EQ(lima_yaml_disk_size("[a, b]: c\ndisk: 2GiB\n"), 2_GiB);
}

TEST(LimaYaml, SaysNothingWhereThereIsNoSize) {
  for (const char* text :
       {"", "\n", "disk", "disk:", "disk: null\n", "disk: []\n", "disk: {a: 1}\n", "disk: much\n",
        "disk: -1\n", "disk: max\n", "disk: 9000000P\n", "disk: 16383P\n", "disk: 1GiB\nx: [\n", "cpus: 4\n",
        "--- \n...\n", "a: &a 1GiB\ndisk: *a\n", "disk: 1GiB\n\tx", "%YAML 9.9\n---\n"}) {
    EXPECT_EQ(lima_yaml_disk_size(text), std::nullopt) << text;
  }
}

TEST(LimaYaml, IsReadUpToItsLongest) {
  const std::string line = "disk: 1GiB\n";
  EXPECT_EQ(lima_yaml_disk_size(line + repeated("#\n", longest - line.size())), 1_GiB);
  EXPECT_EQ(lima_yaml_disk_size(line + repeated("#", longest)), std::nullopt);
}

// Each of these has brought down some YAML reader: by recursion, by aliases of aliases, by time.
TEST(LimaYaml, HostileTextsEnd) {
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 40; ++i) {
    const std::string alias = fmt::format("*a{}", i - 1);
    bomb += fmt::format("a{0}: &a{0} [{1}{2}]\n", i, repeated(alias + ",", 40), alias);
  }
  std::string stairs;
  for (std::string indent; stairs.size() < longest - 4096; indent += ' ') stairs += indent + "a:\n";
  const std::vector<std::string> texts = {
      std::string(100'000, '['),
      std::string(longest, '['),
      std::string(longest, '{'),
      std::string(100'000, '[') + std::string(100'000, ']'),
      repeated("- ", longest),
      repeated("? ", longest),
      repeated("a: ", longest),
      repeated("!a ", longest),
      fmt::format("[{}]", repeated("a: b,", longest - 2)),
      fmt::format("{{{}}}", repeated("a,", longest - 2)),
      fmt::format("a: &x 1\nb: [{}]\n", repeated("*x,", longest - 100)),
      "a: &a [*a]\n",
      "&a {*a : 1}\n",
      fmt::format("\"{}", std::string(longest - 1, 'a')),
      stairs,
  };
  // One that does not end ends the tests.
  constexpr unsigned patience_seconds = 1200;
  ::alarm(patience_seconds);
  for (const std::string& text : texts)
    EXPECT_EQ(lima_yaml_disk_size(text), std::nullopt) << text.substr(0, 40);
  EXPECT_EQ(lima_yaml_disk_size(bomb + "disk: 3GiB\n"), 3_GiB);
  ::alarm(0);
}

TEST(LimaYaml, SurvivesMutatedTexts) {
  const std::vector<std::string> seeds = {
      "disk: 100GiB\ncpus: 4\n",
      "{\"disk\": \"5GiB\", \"x\": [1, 2]}",
      "images:\n- location: \"/a\"\n  arch: x86_64\ndisk: '8GiB'\nprovision:\n- mode: system\n  script: |\n  "
      "  true\n",
      "a: &a {b: c}\nd: *a\ndisk: !!str 1T\n",
  };
  Mutator mutator(17);
  int found = 0;
  for (int i = 0; i < 30000; ++i) {
    const std::string text = mutator.mutate(seeds);
    const std::optional<Bytes> size = lima_yaml_disk_size(text);
    if (!size) continue;
    ++found;
    ASSERT_LE(size->count(), static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) << text;
  }
  EXPECT_GT(found, 1000);
}

}  // namespace
}  // namespace limaquota
