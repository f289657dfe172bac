// The words of a command line: which commands there are, which options each takes, and what is run for it.
// CLI11 parses them and writes --help; this header keeps its templates out of every source that declares a
// command.
//
// Not thread safe: a program is declared, then parsed, by one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace limaquota {

// An option or a positional argument of a command: a handle, good as long as the program is.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  // What the help shows in place of the value, such as "DIR".
  Option& shown_as(const std::string& text);
  Option& required();
  // Wrong use where both are given.
  Option& excludes(const Option& other);
  // A value may be several, with commas between them.
  Option& split_at_commas();
  // Takes one word each time it is given, and may be given again.
  Option& one_word_each_time();
  Option& one_of(const std::vector<std::string>& words);
  Option& within(unsigned least, unsigned most);
  // The help shows what the variable held when the option was declared.
  Option& with_default_shown();
  // Whether the command line had it, an empty text too. Known when the command is run.
  bool given() const;

 private:
  CLI::Option* option_;
};

// What the completions of the shells ask of an option.
struct OptionShape {
  std::string name;  // of a positional argument "VM"; of an option its first name, "--home" or "-f"
  std::vector<std::string> names;  // of an option all of them, with their dashes, the long ones first
  std::string text;                // what shown_as() was told
  std::string description;
  bool positional = false;
  bool takes_value = false;
};
struct CommandShape {
  std::string name, description;
  bool hidden = false;  // not in the help
  std::vector<OptionShape> options;
};

// A command of the program: a handle, as Option. `names` are those of an option ("-f,--foreground") or the
// one of a positional argument ("VM"). The variables outlive the program's parse().
class Command {
 public:
  explicit Command(CLI::App* command) : command_(command) {}

  Option flag(const std::string& names, bool& value, const std::string& help = "");
  Option text(const std::string& names, std::string& value, const std::string& help = "");
  Option texts(const std::string& names, std::vector<std::string>& values, const std::string& help = "");
  Option number(const std::string& names, int& value, const std::string& help = "");
  Option number(const std::string& names, unsigned& value, const std::string& help = "");
  // What --help ends with: what the options do not say, and examples.
  void footer(const std::string& text);

 private:
  friend class Program;
  CLI::App* command_;
};

class Program {
 public:
  // What a command does; gives the exit status.
  using Work = std::function<int()>;

  Program(const std::string& name, const std::string& description, const std::string& version);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  Command command(const std::string& name, const std::string& description);
  // For programs, not for people: not in the help.
  Command hidden_command(const std::string& name, const std::string& description = "");
  // What is done where the command line names the command.
  void on(const Command& command, Work work);
  void footer(const std::string& text);

  // Parses the words and does what the command they name does. Gives its exit status; 0 after --help or
  // --version, and 2, with a line on standard error, where the words are wrong. What the work throws goes
  // through.
  int run(int argc, const char* const* argv);

  // The commands in the order in which they were declared; first the program itself, whose name is empty.
  std::vector<CommandShape> shapes() const;

 private:
  std::unique_ptr<CLI::App> program_;
  int status_ = 0;
};

}  // namespace limaquota
