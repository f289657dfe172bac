// limaquota mount [SOURCE [MOUNTPOINT]]
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fs/daemon/mount_channel.hpp"
#include "fs/daemon/mount_home.hpp"
#include "fs/system/fd.hpp"
#include "mount-helpers/command/commands.hpp"
#include "mount-helpers/command/options.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

struct MountArguments {
  std::string source;
  std::string mountpoint;
  std::string home;
  std::vector<std::string> options;
  bool foreground = false;
};

MountOptions mount_options(const MountArguments& arguments) {
  MountOptions options;
  options.source = arguments.source.empty() ? choose_home(arguments.home) : arguments.source;
  options.mountpoint = arguments.mountpoint.empty() ? options.source : arguments.mountpoint;
  options.foreground = arguments.foreground;
  for (const std::string& option : arguments.options) {
    if (option == "allow_other") {
      options.allow_other = true;
    } else if (option == "edquot") {
      options.refuse_with_edquot = true;
    } else if (option == "io_uring") {
      options.io_uring = true;
    } else if (!option.empty()) {
      options.flags.push_back(option);
    }
  }
  return options;
}

// Tells the systemd that started this process, if one did and waits for it, that the mount answers. Source of
// the format: sd_notify(3), a datagram to the socket that $NOTIFY_SOCKET names, `@` for an abstract one.
void notify_systemd() {
  const char* name = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (name == nullptr || *name == '\0' || std::strlen(name) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name, std::strlen(name));
  if (*name == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(name));
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::string_view text = "READY=1\nSTATUS=mounted";
  ::sendto(socket.get(), text.data(), text.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
           length);
}

// A mount whose daemon has died answers nothing but ENOTCONN, hides the home, and has nothing left to lose.
// Throws Refusal where the daemon hangs.
void clear_dead_mount(const std::string& directory) {
  const auto path = find_real_path(directory);
  if (!path) return;  // mount_home() says what to do
  const MountState state = mount_state(*path);
  if (state == MountState::hung) throw Refusal(hung_text(*path));
  if (state != MountState::dead) return;
  detach_mount(*path);
  warn(fmt::format("limaquota: cleared a dead mount from {}", *path));
}

int run_mount(const MountArguments& arguments) {
  MountOptions options = mount_options(arguments);
  for (const std::string& directory : {options.source, options.mountpoint}) clear_dead_mount(directory);
  if (options.foreground) options.ready = notify_systemd;
  return mount_home(options);
}

}  // namespace

void add_mount(Program& program) {
  Command command = program.command("mount", "Mount over a Lima home, or show it elsewhere");
  auto arguments = std::make_shared<MountArguments>();
  Option source = command.text("SOURCE", arguments->source, "The Lima home; else as --home says");
  source.shown_as("DIR");
  add_home_option(command, arguments->home).excludes(source);
  command.text("MOUNTPOINT", arguments->mountpoint, "Where to show it; else it is covered in place")
      .shown_as("DIR");
  command.flag("-f,--foreground", arguments->foreground, "Stay in front and log to standard error");
  command
      .texts("-o", arguments->options,
             "Mount options: allow_other, edquot (refuse with EDQUOT rather than ENOSPC: guests then see "
             "an I/O error and are not paused), io_uring (faster small requests; needs Linux 6.14 with "
             "fuse.enable_uring=Y, and a crash of the daemon then ends the mount), ro, dev, suid, noexec, "
             "noatime, ...")
      .shown_as("OPTION[,OPTION...]")
      .split_at_commas()
      .one_word_each_time();
  command.footer(
      "Examples:\n"
      "  limaquota mount                               cover your Lima home; returns when it is ready\n"
      "  limaquota mount ~/.lima /mnt/lima             show it elsewhere instead\n"
      "  limaquota mount -f -o allow_other /srv/lima   as root, for all users, staying in front\n"
      "  in /etc/fstab:  /srv/lima /srv/lima fuse.limaquota allow_other 0 0");
  program.on(command, [arguments] { return run_mount(*arguments); });
}

}  // namespace limaquota
