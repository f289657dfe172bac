// limaquota __complete [WORD...]: what the last word of "limaquota WORD..." may become. The completions of
// the shells ask it, so that they know each command and option that there is.
//
// Prints a line "candidate<TAB>description" for each, the candidates that start with the word only. A first
// line ":directories" or ":files" says that the shell is to complete those too.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/layout.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/plan/plan.hpp"

namespace limaquota {
namespace {

using Words = std::vector<std::string>;
constexpr std::chrono::milliseconds completion_patience{1000};

// Shells split lines, and terminals obey control characters.
bool is_printable(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; });
}

// True for a text that is typed as it stands, such as "virtual", not a word for what is typed, such as SIZE.
bool is_literal(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || c == '-'; });
}

// "--home=DIR" as the two words "--home", "DIR"; bash makes three of it, "=" in the middle.
Words without_equals_signs(const Words& words) {
  Words split;
  for (const std::string& word : words) {
    const bool after_option = !split.empty() && split.back().starts_with("--");
    if (word == "=" && after_option) continue;
    const size_t sign = word.starts_with("--") ? word.find('=') : std::string::npos;
    split.push_back(word.substr(0, sign));
    if (sign != std::string::npos) split.push_back(word.substr(sign + 1));
  }
  return split;
}

// A word that is being completed comes as it is typed: the shell has not read its ~ yet.
std::string with_home_directory(const std::string& path) {
  const char* directory = std::getenv("HOME");
  if (directory == nullptr || (path != "~" && !path.starts_with("~/"))) return path;
  return directory + path.substr(1);
}

class Completer {
 public:
  Completer(std::vector<CommandShape> commands, Words words)
      : commands_(std::move(commands)), words_(std::move(words)) {
    if (words_.empty()) words_.emplace_back();
    last_ = words_.back();
    words_.pop_back();
    words_ = without_equals_signs(words_);
  }

  void print() const {
    const CommandShape* command = command_of_words();
    if (command == nullptr) {
      print_commands();
    } else if (const OptionShape* option = option_that_waits(*command)) {
      print_values(option->text, option->name);
    } else if (last_.starts_with('-')) {
      print_options(*command);
    } else {
      print_positional(*command);
    }
  }

 private:
  const CommandShape& program() const { return commands_.front(); }

  const CommandShape* command_of_words() const {
    for (const std::string& word : words_) {
      if (word.starts_with('-')) continue;
      const auto named = std::find_if(commands_.begin() + 1, commands_.end(),
                                      [&](const CommandShape& command) { return command.name == word; });
      return named == commands_.end() ? nullptr : &*named;
    }
    return nullptr;
  }

  // The option of that name which takes a value, or null.
  static const OptionShape* with_value(const CommandShape& command, const std::string& word) {
    for (const OptionShape& option : command.options) {
      if (option.takes_value && std::count(option.names.begin(), option.names.end(), word) > 0)
        return &option;
    }
    return nullptr;
  }

  // The option of which the last word is the value.
  const OptionShape* option_that_waits(const CommandShape& command) const {
    return with_value(command, words_.back());
  }

  void candidate(const std::string& text, const std::string& description) const {
    if (text.starts_with(last_) && is_printable(text)) fmt::print("{}\t{}\n", text, description);
  }

  void print_commands() const {
    if (last_.starts_with('-')) return print_options(program());
    for (size_t i = 1; i < commands_.size(); ++i) {
      if (!commands_[i].hidden) candidate(commands_[i].name, commands_[i].description);
    }
  }

  void print_options(const CommandShape& command) const {
    for (const OptionShape& option : command.options) {
      for (const std::string& name : option.names) {
        if (name.starts_with("--") || !last_.starts_with("--")) candidate(name, option.description);
      }
    }
  }

  // The positional argument that comes after those already there; the last one may be repeated.
  void print_positional(const CommandShape& command) const {
    std::vector<const OptionShape*> positionals;
    for (const OptionShape& option : command.options) {
      if (option.positional) positionals.push_back(&option);
    }
    if (positionals.empty()) return print_options(command);
    size_t before = 0;
    for (size_t i = 1; i < words_.size(); ++i) {
      if (!words_[i].starts_with('-') && with_value(command, words_[i - 1]) == nullptr) ++before;
    }
    const OptionShape& option = *positionals[std::min(before, positionals.size() - 1)];
    print_values(option.text, option.name);
  }

  // What may stand where the help says NAME, VM, DIR, FILE...
  void print_values(const std::string& text, const std::string& name) const {
    const auto says = [&](std::string_view word) {
      return text.find(word) != std::string::npos || name.find(word) != std::string::npos;
    };
    if (says("SIZE")) return;
    if (says("DIR")) {
      fmt::print(":directories\n");
    } else if (says("FILE") || says("TEMPLATE")) {
      fmt::print(":files\n");
      if (!says("TEMPLATE")) return;
      for (const std::string& shipped : shipped_templates()) candidate(shipped, "ships with limaquota");
    } else if (says("VM") || says("NAME")) {
      print_accounts(says("VM"));
    } else if (is_literal(text)) {
      candidate(text, "");
    }
  }

  std::string home() const {
    const auto option = std::find(words_.begin(), words_.end(), "--home");
    return choose_home(option != words_.end() && option + 1 != words_.end() ? with_home_directory(option[1])
                                                                            : "");
  }

  void print_accounts(bool vms_only) const {
    const std::string home = find_real_path(this->home()).value_or("");
    if (mount_state(home, completion_patience) == MountState::hung) return;
    for (const LimaVm& vm : lima_vms(home)) candidate(vm.name, "VM");
    if (vms_only) return;
    std::error_code error;
    for (std::filesystem::directory_iterator disk(home + "/" + std::string(disks_directory), error), end;
         !error && disk != end; disk.increment(error)) {
      candidate(account_of_disk(disk->path().filename().string()), "disk");
    }
    candidate(std::string(default_name), "VMs without a limit of their own");
    candidate(std::string(host_name), "the space that stays free");
    candidate(std::string(shared_account), "everything else");
  }

  std::vector<CommandShape> commands_;  // the program itself first
  Words words_;                         // those before the last
  std::string last_;
};

}  // namespace

void add_complete(Program& program) {
  Command command = program.hidden_command("__complete", "Complete a command line");
  auto words = std::make_shared<Words>();
  command.texts("WORD", *words);
  program.on(command, [&program, words] {
    Completer(program.shapes(), *words).print();
    return 0;
  });
}

}  // namespace limaquota
