#include "mount-helpers/command/options.hpp"

#include <CLI/CLI.hpp>
#include <utility>

namespace limaquota {
namespace {

constexpr int exit_wrong_use = 2;

OptionShape shape_of(const CLI::Option& option) {
  OptionShape shape;
  shape.positional = option.get_positional();
  shape.name = shape.positional ? option.get_name() : option.get_single_name();
  for (const std::string& name : option.get_lnames()) shape.names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) shape.names.push_back("-" + name);
  shape.text = option.get_option_text();
  shape.description = option.get_description();
  shape.takes_value = option.get_items_expected_max() > 0;
  return shape;
}

CommandShape shape_of(const CLI::App& command) {
  CommandShape shape;
  shape.description = command.get_description();
  shape.hidden = command.get_group().empty();
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_group().empty()) shape.options.push_back(shape_of(*option));
  }
  return shape;
}

}  // namespace

Option& Option::shown_as(const std::string& text) {
  option_->option_text(text);
  return *this;
}

Option& Option::required() {
  option_->required();
  return *this;
}

Option& Option::excludes(const Option& other) {
  option_->excludes(other.option_);
  return *this;
}

Option& Option::split_at_commas() {
  option_->delimiter(',');
  return *this;
}

Option& Option::one_word_each_time() {
  option_->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return *this;
}

Option& Option::one_of(const std::vector<std::string>& words) {
  option_->check(CLI::IsMember(words));
  return *this;
}

Option& Option::within(unsigned least, unsigned most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

Option& Option::with_default_shown() {
  option_->capture_default_str();
  return *this;
}

bool Option::given() const { return option_->count() > 0; }

Option Command::flag(const std::string& names, bool& value, const std::string& help) {
  return Option(command_->add_flag(names, value, help));
}

Option Command::text(const std::string& names, std::string& value, const std::string& help) {
  return Option(command_->add_option(names, value, help));
}

Option Command::texts(const std::string& names, std::vector<std::string>& values, const std::string& help) {
  return Option(command_->add_option(names, values, help));
}

Option Command::number(const std::string& names, int& value, const std::string& help) {
  return Option(command_->add_option(names, value, help));
}

Option Command::number(const std::string& names, unsigned& value, const std::string& help) {
  return Option(command_->add_option(names, value, help));
}

void Command::footer(const std::string& text) { command_->footer(text); }

Program::Program(const std::string& name, const std::string& description, const std::string& version)
    : program_(std::make_unique<CLI::App>(description, name)) {
  program_->set_version_flag("--version", version);
  program_->require_subcommand(1);
}

Program::~Program() = default;

Command Program::command(const std::string& name, const std::string& description) {
  return Command(program_->add_subcommand(name, description));
}

Command Program::hidden_command(const std::string& name, const std::string& description) {
  return Command(program_->add_subcommand(name, description)->group(""));
}

void Program::on(const Command& command, Work work) {
  command.command_->callback([this, work = std::move(work)] { status_ = work(); });
}

void Program::footer(const std::string& text) { program_->footer(text); }

int Program::run(int argc, const char* const* argv) {
  try {
    program_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program_->exit(error) == 0 ? 0 : exit_wrong_use;
  }
  return status_;
}

std::vector<CommandShape> Program::shapes() const {
  std::vector<CommandShape> shapes{shape_of(*program_)};
  for (const CLI::App* command : program_->get_subcommands([](CLI::App*) { return true; })) {
    shapes.push_back(shape_of(*command));
    shapes.back().name = command->get_name();
  }
  return shapes;
}

}  // namespace limaquota
