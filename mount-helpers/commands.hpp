// The commands of `limaquota`. To add one: write add_x() in a file of its own, name it here and in main.cpp's
// table.
//
// Exit statuses: 0 done, 1 the answer is no (refused, failed, not mounted), 2 wrong use.
#pragma once

#include <CLI/CLI.hpp>
#include <stdexcept>

namespace limaquota {

// Thrown by a command, caught in main(): one line for people that says what and what to do.
struct Refusal : std::runtime_error {  // exit status 1
  using std::runtime_error::runtime_error;
};
struct WrongUse : std::runtime_error {  // exit status 2
  using std::runtime_error::runtime_error;
};

// Each adds a subcommand to the program. Its callback does the work and stores the exit status, where that
// is not 0, in `status`, which outlives the program.
void add_mount(CLI::App& program, int& status);
void add_umount(CLI::App& program, int& status);
void add_status(CLI::App& program, int& status);
void add_set(CLI::App& program, int& status);
void add_metrics(CLI::App& program, int& status);
void add_resume(CLI::App& program, int& status);
void add_stop(CLI::App& program, int& status);
void add_watch(CLI::App& program, int& status);
void add_doctor(CLI::App& program, int& status);
void add_plan(CLI::App& program, int& status);
void add_apply(CLI::App& program, int& status);
void add_reclaim(CLI::App& program, int& status);
void add_enable(CLI::App& program, int& status);
void add_disable(CLI::App& program, int& status);
void add_upgrade(CLI::App& program, int& status);
// Not shown: for the units that `enable` writes, for the shells' completions, for `upgrade`.
void add_stop_vms(CLI::App& program, int& status);
void add_complete(CLI::App& program, int& status);
void add_take_over(CLI::App& program, int& status);

}  // namespace limaquota
