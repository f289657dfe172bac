// limaquota mount SOURCE [MOUNTPOINT]
#include "fs/mount_home.hpp"

#include <memory>
#include <string>
#include <vector>

#include "mount-helpers/commands.hpp"

namespace limaquota {
namespace {

struct MountArguments {
  std::string source;
  std::string mountpoint;
  std::vector<std::string> options;
  bool foreground = false;
};

MountOptions mount_options(const MountArguments& arguments) {
  MountOptions options;
  options.source = arguments.source;
  options.mountpoint = arguments.mountpoint.empty() ? arguments.source : arguments.mountpoint;
  options.foreground = arguments.foreground;
  for (const std::string& option : arguments.options) {
    if (option == "allow_other") {
      options.allow_other = true;
    } else if (option == "edquot") {
      options.refuse_with_edquot = true;
    } else if (!option.empty()) {
      options.flags.push_back(option);
    }
  }
  return options;
}

}  // namespace

void add_mount(CLI::App& program, int& status) {
  CLI::App* command = program.add_subcommand("mount", "Mount over a Lima home, or show it elsewhere");
  auto arguments = std::make_shared<MountArguments>();
  command->add_option("SOURCE", arguments->source, "The Lima home")->option_text("DIR")->required();
  command->add_option("MOUNTPOINT", arguments->mountpoint, "Where to show it; else it is covered in place")
      ->option_text("DIR");
  command->add_flag("-f,--foreground", arguments->foreground, "Stay in front and log to standard error");
  command
      ->add_option(
          "-o", arguments->options,
          "Mount options: allow_other, edquot (refuse with EDQUOT rather than ENOSPC: guests then see "
          "an I/O error and are not paused), ro, dev, suid, noexec, noatime, ...")
      ->option_text("OPTION[,OPTION...]")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->footer(
      "Examples:\n"
      "  limaquota mount ~/.lima                       cover your Lima home; returns when it is ready\n"
      "  limaquota mount ~/.lima /mnt/lima             show it elsewhere instead\n"
      "  limaquota mount -f -o allow_other /srv/lima   as root, for all users, staying in front\n"
      "  in /etc/fstab:  /srv/lima /srv/lima fuse.limaquota allow_other 0 0");
  command->callback([arguments, &status] { status = mount_home(mount_options(*arguments)); });
}

}  // namespace limaquota
