#include "accounting/template.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "accounting/profile.hpp"
#include "accounting/template_yaml.hpp"
#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

Template parsed(std::string_view text) {
  const Parsed<Template> result = parse_template(text);
  if (const auto* error = std::get_if<ParseError>(&result)) {
    ADD_FAILURE() << text << ": " << error->message;
    return {};
  }
  return std::get<Template>(result);
}

template <class T>
std::string error_of(const Parsed<T>& result) {
  const auto* error = std::get_if<ParseError>(&result);
  return error == nullptr ? "" : error->message;
}

TEST(Template, ReadsWhatPlanningNeeds) {
  const Template from = parsed(
      "disk: 15GiB\narch: x86_64\nbase: [template:_images/debian-12, {url: ./mine.yaml}]\n"
      "additionalDisks:\n- data\n- name: pool\n  format: false\n- data\n"
      "images:\n- location: https://example.org/a.qcow2\n  arch: aarch64\n- location: /b.raw\n  arch: "
      "x86_64\n"
      "provision:\n- mode: system\n  script: |\n    disk: 1GiB\n");
  EXPECT_EQ(from.disk, 15_GiB);
  EXPECT_EQ(from.bases, (std::vector<std::string>{"template:_images/debian-12", "./mine.yaml"}));
  EXPECT_EQ(from.additional_disks, (std::vector<std::string>{"data", "pool"}));
  ASSERT_NE(image_for(from, "aarch64"), nullptr);
  EXPECT_EQ(image_for(from, "aarch64")->location, "/b.raw") << "the template's own arch counts";
}

TEST(Template, ABaseMayBeALoneText) {
  EXPECT_EQ(parsed("base: template:debian\n").bases, std::vector<std::string>{"template:debian"});
  EXPECT_EQ(parsed("base: {url: a.yaml}\n").bases, std::vector<std::string>{"a.yaml"});
}

TEST(Template, TheImageIsTheFirstOfTheHostsArchitecture) {
  const Template from =
      parsed("images:\n- {location: a, arch: aarch64}\n- {location: b, arch: x86_64}\n- {location: c}\n");
  EXPECT_EQ(image_for(from, "x86_64")->location, "b");
  EXPECT_EQ(image_for(from, "riscv64")->location, "c");
  EXPECT_EQ(image_for(parsed("cpus: 2\n"), "x86_64"), nullptr);
}

TEST(Template, IsFilledInAsLimaDoes) {
  const Template own = parsed("additionalDisks: [a]\nimages: [{location: own}]\n");
  const Template defaults = parsed("disk: 20GiB\nadditionalDisks: [b, a]\nimages: [{location: default}]\n");
  const Template overrides = parsed("disk: 30GiB\nadditionalDisks: [c]\n");
  EXPECT_EQ(fill_in(own, defaults).disk, 20_GiB);
  EXPECT_EQ(fill_in(parsed("disk: 5GiB\n"), defaults).disk, 5_GiB);
  const Template all = fill_in(overrides, fill_in(own, defaults));
  EXPECT_EQ(all.disk, 30_GiB);
  EXPECT_EQ(all.additional_disks, (std::vector<std::string>{"c", "a", "b"}));
  EXPECT_EQ(all.images.front().location, "own");
}

TEST(Template, SaysWhatIsWrong) {
  EXPECT_NE(error_of(parse_template("disk: 15 parsecs\n")).find("'15\\040parsecs' is no size"),
            std::string::npos);
  for (const char* size : {"-1", "1e3G", "99999999999T", "8388608P"}) {
    EXPECT_NE(error_of(parse_template(fmt::format("disk: {}\n", size))), "") << size;
  }
  EXPECT_NE(error_of(parse_template("a: [\n")).find("line "), std::string::npos);
  EXPECT_NE(error_of(parse_template("just words\n")).find("no mapping"), std::string::npos);
  EXPECT_NE(error_of(parse_template("- disk: 1GiB\n")).find("no mapping"), std::string::npos);
  EXPECT_NE(error_of(parse_template("x: &x 1GiB\ndisk: *x\n")).find("line 2: aliases"), std::string::npos);
  EXPECT_NE(error_of(parse_template("x: &x {disk: 1GiB}\n<<: *x\n")).find("aliases"), std::string::npos);
  EXPECT_NE(error_of(parse_template(std::string(longest_yaml + 1, '#'))).find("1 MiB"), std::string::npos);
  EXPECT_NE(error_of(parse_template(std::string(100'000, '['))), "");
  std::string many = "additionalDisks: [";
  for (int i = 0; i < 5000; ++i) many += "a,";
  EXPECT_NE(error_of(parse_template(many + "]\n")).find("too many"), std::string::npos);
}

TEST(Template, WhatIsWrongDisturbsNoTerminal) {
  const std::string error = error_of(parse_template("a: \"\\\x1b\"\n"));
  EXPECT_NE(error.find("line 1: not YAML: unknown escape character: \\033"), std::string::npos) << error;
}

TEST(Template, NullAndEmptyMeanAbsent) {
  EXPECT_EQ(parsed("").disk, std::nullopt);
  EXPECT_EQ(parsed("disk: null\nimages: null\nbase: ~\n").disk, std::nullopt);
  EXPECT_EQ(parsed("disk: \"\"\n").disk, std::nullopt);
  EXPECT_EQ(parsed("x: &x 1\ny: *x\ndisk: 1GiB\n").disk, 1_GiB) << "an alias elsewhere is nothing to us";
}

TEST(Template, SurvivesMutatedTexts) {
  const std::vector<std::string> seeds = {
      "disk: 15GiB\nbase: [a, {url: b}]\nadditionalDisks: [{name: x}]\nimages: [{location: a, arch: b}]\n",
      "limit: 4GiB\ntemporary: true\nzfs: {file: 256MiB, quota: 200MiB}\nlines:\n- {name: a, bytes: 1GiB}\n",
      "lines:\n- {name: a, peak: 1GiB to 2GiB, steady: 0}\nmust: [a, b]\nbeside: [c]\n"};
  Mutator mutator(29);
  int templates = 0, profiles = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = mutator.mutate(seeds);
    templates += error_of(parse_template(text)).empty() ? 1 : 0;
    const Parsed<Profile> profile = parse_profile(text);
    if (const auto* good = std::get_if<Profile>(&profile)) {
      ++profiles;
      ASSERT_LE(good->peak().low, good->peak().high) << text;
    }
  }
  EXPECT_GT(templates, 1000);
  EXPECT_GT(profiles, 1000);
}

TEST(Profile, LinesAreAtThePeakInSteadyStateOrBoth) {
  const Parsed<Profile> result = parse_profile(
      "limit: 10GiB\ntemporary: true\nimage: 300MiB\nadvice: tight\nmust: [clean, trim]\n"
      "zfs: {file: 256MiB, quota: 200MiB}\nlines:\n- {name: os, bytes: 1GiB}\n"
      "- {name: objects, peak: 6GiB to 8GiB, steady: 1GiB}\n- {name: kept, steady: 2GiB}\n");
  ASSERT_EQ(error_of(result), "");
  const auto& profile = std::get<Profile>(result);
  EXPECT_EQ(profile.peak(), (Estimate{7_GiB, 9_GiB}));
  EXPECT_EQ(profile.steady(), (Estimate{4_GiB, 4_GiB}));
  EXPECT_EQ(profile.limit, 10_GiB);
  EXPECT_TRUE(profile.temporary);
  EXPECT_EQ(profile.must.size(), 2U);
  EXPECT_EQ(profile.zfs->quota, 200_MiB);
}

TEST(Profile, SaysWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"limt: 4GiB\n", "unknown key 'limt'"},
      {"limit: [4GiB]\n", "unknown key 'limit[0]'"},
      {"limit: much\n", "limit: 'much' is no size"},
      {"temporary: maybe\n", "temporary"},
      {"zfs: {quota: 1GiB}\n", "zfs"},
      {"lines:\n- {bytes: 1GiB}\n", "lines[0]: it has no name"},
      {"lines:\n- {name: a}\n", "lines[0]: say either bytes"},
      {"lines:\n- {name: a, bytes: 1GiB, peak: 2GiB}\n", "lines[0]: say either bytes"},
      {"lines:\n- {name: a, peak: 2GiB to 1GiB}\n", "goes down"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_NE(error_of(parse_profile(text)).find(message), std::string::npos)
        << text << ": " << error_of(parse_profile(text));
  }
}

}  // namespace
}  // namespace limaquota
