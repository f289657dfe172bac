// The `limaquota` command: the table of commands, and what becomes of their errors.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr int exit_refused = 1;
constexpr int exit_wrong_use = 2;

using AddCommand = void (*)(Program& program);
constexpr AddCommand command_table[] = {
    add_mount,  add_umount,  add_status,  add_set,      add_metrics,  add_resume,
    add_stop,   add_watch,   add_doctor,  add_plan,     add_apply,    add_reclaim,
    add_enable, add_disable, add_upgrade, add_stop_vms, add_complete, add_take_over,
};

int complain(const std::exception& error, int status) {
  warn(fmt::format("limaquota: {}", error.what()));
  return status;
}

// What is opened later must not become the standard error of somebody: complaints would go into it.
void open_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) == -1) ::open("/dev/null", O_RDWR);  // takes the lowest number, which is fd
  }
}

int run(int argc, char** argv) {
  Program program("limaquota", "Holds each VM of a Lima home to a hard disk budget.",
                  "limaquota " LIMAQUOTA_VERSION);
  program.footer("\"limaquota COMMAND --help\" shows examples.");
  for (const AddCommand add : command_table) add(program);
  try {
    return program.run(argc, argv);
  } catch (const Refusal& error) {
    return complain(error, exit_refused);
  } catch (const WrongUse& error) {
    return complain(error, exit_wrong_use);
  } catch (const std::exception& error) {
    return complain(error, exit_refused);
  }
}

}  // namespace
}  // namespace limaquota

int main(int argc, char** argv) {
  limaquota::open_standard_streams();
  const int status = limaquota::run(argc, argv);
  // An answer that could not be written is no answer.
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? status : limaquota::exit_refused;
}
