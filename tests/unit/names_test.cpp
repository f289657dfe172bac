#include "accounting/names.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>

#include "accounting/escape.hpp"

namespace limaquota {
namespace {

const std::string hostile[] = {"plain-1.x",   "",     "a b",     "it's",    "a\\b",
                               "$(reboot)",   "a\nb", "\x1b[2J", "caf\xe9", "~root",
                               "caf\xc3\xa9", "*?[",  "\\040'",  "!x",      "-rf x'\xff'"};

TEST(Names, UnescapeGivesBackWhatEscapeWasGiven) {
  for (const std::string& name : hostile) EXPECT_EQ(unescape_name(escape_name(name)), name);
  EXPECT_EQ(unescape_name("\\9\\04"), "\\9\\04") << "no escape";
}

std::string read_by_bash(const std::string& word) {
  const std::string command = "bash -c " + shell_quoted("printf %s " + word);
  std::FILE* bash = ::popen(command.c_str(), "r");
  std::array<char, 256> text{};
  const size_t size = std::fread(text.data(), 1, text.size(), bash);
  return ::pclose(bash) == 0 ? std::string(text.data(), size) : "failed: " + command;
}

TEST(Names, AShellReadsAQuotedNameAsTheName) {
  for (const std::string& name : hostile) {
    const std::string word = shell_quoted(name);
    EXPECT_EQ(word.find('\n'), std::string::npos);
    EXPECT_EQ(read_by_bash(word), name) << word;
  }
}

TEST(Names, WhatNeedsNoQuotesGetsNone) {
  EXPECT_EQ(shell_quoted("/home/ann/.lima/vm_1"), "/home/ann/.lima/vm_1");
  EXPECT_EQ(shell_quoted("a b"), "'a b'");
  EXPECT_EQ(shell_quoted("caf\xc3\xa9"), "'caf\xc3\xa9'");
  EXPECT_EQ(shell_quoted("caf\xe9"), "$'caf\\351'");
}

}  // namespace
}  // namespace limaquota
