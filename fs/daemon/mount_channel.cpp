#include "fs/daemon/mount_channel.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace limaquota {
namespace {

struct Flag {
  const char* name;
  unsigned long bit;
  bool on;
};
constexpr std::array<Flag, 15> known_flags{{{"ro", MS_RDONLY, true},
                                            {"rw", MS_RDONLY, false},
                                            {"suid", MS_NOSUID, false},
                                            {"nosuid", MS_NOSUID, true},
                                            {"dev", MS_NODEV, false},
                                            {"nodev", MS_NODEV, true},
                                            {"exec", MS_NOEXEC, false},
                                            {"noexec", MS_NOEXEC, true},
                                            {"async", MS_SYNCHRONOUS, false},
                                            {"sync", MS_SYNCHRONOUS, true},
                                            {"atime", MS_NOATIME, false},
                                            {"noatime", MS_NOATIME, true},
                                            {"dirsync", MS_DIRSYNC, true},
                                            {"diratime", MS_NODIRATIME, false},
                                            {"nodiratime", MS_NODIRATIME, true}}};
constexpr unsigned max_read = 1U << 20;

std::variant<Fd, MountFailure> mount_as_root(const MountRequest& request) {
  Fd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device) {
    return MountFailure{
        fmt::format("cannot open /dev/fuse: {}; load the module: modprobe fuse", std::strerror(errno))};
  }
  unsigned long flags = MS_NOSUID | MS_NODEV;
  for (const std::string& option : request.flags) {
    const auto* flag =
        std::find_if(known_flags.begin(), known_flags.end(), [&](const Flag& f) { return option == f.name; });
    if (flag != known_flags.end()) flags = flag->on ? flags | flag->bit : flags & ~flag->bit;
  }
  const std::string data =
      fmt::format("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={}{}", device.get(),
                  max_read, request.allow_other ? ",allow_other" : "");
  if (::mount(request.source.c_str(), request.mountpoint.c_str(), "fuse.limaquota", flags, data.c_str()) !=
      0) {
    return MountFailure{fmt::format("cannot mount on {}: {}", request.mountpoint, std::strerror(errno))};
  }
  return device;
}

// fusermount3 sends the descriptor over the socket that _FUSE_COMMFD names.
Fd receive_descriptor(int socket) {
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = 0;
  do got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  const cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Fd(fd);
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == ',' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// Runs a program with its standard error in a pipe; returns the exit status and what it said.
int run(const std::vector<std::string>& arguments, int keep_fd, std::string* said) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return 127;
  Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return 127;
  if (child == 0) {
    if (keep_fd >= 0) ::fcntl(keep_fd, F_SETFD, 0);
    ::dup2(write_end.get(), STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(errno == ENOENT ? 126 : 127);
  }
  write_end.reset();
  char buffer[512];
  ssize_t got = 0;
  while ((got = ::read(read_end.get(), buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) said->append(buffer, static_cast<size_t>(got));
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  while (!said->empty() && said->back() == '\n') said->pop_back();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 127;
}

std::variant<Fd, MountFailure> mount_as_user(const MountRequest& request) {
  if (::access("/dev/fuse", F_OK) != 0)
    return MountFailure{"there is no /dev/fuse: load the module: sudo modprobe fuse"};
  if (::access("/dev/fuse", R_OK | W_OK) != 0) {
    return MountFailure{
        "/dev/fuse may not be opened by you: sudo chmod 0666 /dev/fuse (distributions ship it so)"};
  }
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return MountFailure{fmt::format("socketpair: {}", std::strerror(errno))};
  }
  const Fd ours(sockets[0]);
  Fd theirs(sockets[1]);
  std::string options = fmt::format("fsname={},subtype=limaquota,default_permissions,max_read={}",
                                    escaped(request.source), max_read);
  if (request.allow_other) options += ",allow_other";
  for (const std::string& flag : request.flags) options += "," + flag;
  ::setenv("_FUSE_COMMFD", std::to_string(theirs.get()).c_str(), 1);
  std::string said;
  const int status = run({"fusermount3", "-o", options, "--", request.mountpoint}, theirs.get(), &said);
  ::unsetenv("_FUSE_COMMFD");
  theirs.reset();
  if (status == 126) return MountFailure{"there is no fusermount3: install it: sudo apt install fuse3"};
  Fd device = status == 0 ? receive_descriptor(ours.get()) : Fd();
  if (!device) return MountFailure{said.empty() ? "fusermount3 failed" : said};
  return device;
}

}  // namespace

bool is_mount_flag(const std::string& option) {
  return std::any_of(known_flags.begin(), known_flags.end(), [&](const Flag& f) { return option == f.name; });
}

std::variant<Fd, MountFailure> open_mount(const MountRequest& request) {
  return ::geteuid() == 0 ? mount_as_root(request) : mount_as_user(request);
}

void detach_mount(const std::string& mountpoint) {
  if (::geteuid() == 0) {
    ::umount2(mountpoint.c_str(), MNT_DETACH);
    return;
  }
  std::string said;
  run({"fusermount3", "-u", "-z", "--", mountpoint}, -1, &said);
}

}  // namespace limaquota
