// The commands of `limaquota`. To add one: write add_x() in a file of its own, name it here and in main.cpp's
// table.
//
// Exit statuses: 0 done, 1 the answer is no (refused, failed, not mounted), 2 wrong use.
#pragma once

namespace limaquota {

class Program;

// Each adds a command to the program, with its options, and says what is done for it (options.hpp).
void add_mount(Program& program);
void add_umount(Program& program);
void add_status(Program& program);
void add_set(Program& program);
void add_metrics(Program& program);
void add_resume(Program& program);
void add_stop(Program& program);
void add_watch(Program& program);
void add_doctor(Program& program);
void add_plan(Program& program);
void add_apply(Program& program);
void add_reclaim(Program& program);
void add_enable(Program& program);
void add_disable(Program& program);
void add_upgrade(Program& program);
// Not shown: for the units that `enable` writes, for the shells' completions, for `upgrade`.
void add_stop_vms(Program& program);
void add_complete(Program& program);
void add_take_over(Program& program);

}  // namespace limaquota
