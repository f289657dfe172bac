// The machine: what a mount needs, and what more the kernel and libfuse make possible.
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "accounting/names.hpp"
#include "fs/system/libfuse_version.hpp"
#include "mount-helpers/doctor/doctor.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

constexpr const char* device = "/dev/fuse";
constexpr unsigned distributed_mode = 0666;
// Before 6.6 a write with direct I/O might leave what another open had cached.
constexpr int kernel_direct = 606;
constexpr int kernel_takeover = 609;
constexpr int kernel_uring = 614;
constexpr int libfuse_parallel = 317;
constexpr int libfuse_uring = 318;

// What is in the way of the next mount keeps limits from being held only where there is none now.
Severity in_the_way(const Patient& patient) {
  return patient.mount == MountState::alive ? Severity::warning : Severity::problem;
}

void check_device(const Patient& patient, Findings& findings) {
  struct stat st {};
  if (::stat(device, &st) != 0) {
    findings.push_back({in_the_way(patient), device, std::strerror(errno),
                        "load the module: sudo modprobe fuse (in a container: give it the device)"});
    return;
  }
  const unsigned mode = st.st_mode & 0777;
  const std::string text = fmt::format("mode {:04o}", mode);
  if (::access(device, R_OK | W_OK) != 0) {
    findings.push_back({in_the_way(patient), device, text + ", so you may not open it",
                        "sudo chmod 0666 /dev/fuse (distributions ship it so)"});
  } else if ((mode & distributed_mode) != distributed_mode) {
    findings.push_back({Severity::warning, device, text + ", so only some users can mount",
                        "sudo chmod 0666 /dev/fuse (distributions ship it so)"});
  } else {
    findings.push_back({Severity::ok, device, text, ""});
  }
}

void check_fusermount(const Patient& patient, Findings& findings) {
  const bool root = ::geteuid() == 0;
  const Severity bad = root ? Severity::note : in_the_way(patient);
  const char* who = root ? " (you are root: it is not needed now)" : "";
  const auto program = find_program("fusermount3");
  if (!program) {
    findings.push_back({bad, "fusermount3", fmt::format("is not in PATH{}", who),
                        "install the package fuse3: ordinary users mount by it"});
    return;
  }
  struct stat st {};
  const bool known = ::stat(program->c_str(), &st) == 0;
  if (!known || (st.st_mode & S_ISUID) == 0 || st.st_uid != 0) {
    findings.push_back(
        {bad, "fusermount3", fmt::format("{} is not set-uid root{}", program->string(), who),
         fmt::format("sudo chown root {0} && sudo chmod u+s {0}", shell_quoted(program->string()))});
    return;
  }
  findings.push_back({Severity::ok, "fusermount3", program->string() + " is set-uid root", ""});
}

// 614 of "6.14.2-amd64"; 0 where it is no version.
int version_number(const char* text) {
  int major = 0, minor = 0;
  return std::sscanf(text, "%d.%d", &major, &minor) == 2 ? major * 100 + minor : 0;
}

void check_kernel(Findings& findings) {
  utsname name{};
  if (::uname(&name) != 0) return;
  const int version = version_number(name.release);
  std::string text = fmt::format("Linux {}.{} can hold limits", version / 100, version % 100);
  std::string advice;
  Severity severity = Severity::ok;
  if (version < kernel_direct) {
    severity = Severity::note;
    text += ", but two programs that have one file open may see each other's writes late";
    advice = "Linux 6.6 or later has that right";
  } else {
    text += version >= kernel_takeover ? "; where the daemon dies another one takes over the mount (6.9)"
                                       : "; where the daemon dies the mount is dead: taking over needs 6.9";
    text += version >= kernel_uring ? ", and it may have FUSE over io_uring (6.14)"
                                    : "; FUSE over io_uring needs 6.14";
  }
  findings.push_back({severity, "kernel", text, advice});
}

void check_libfuse(Findings& findings) {
  const int version = version_number(libfuse_version());
  std::string text = fmt::format("{}.{} can hold limits", version / 100, version % 100);
  text += version >= libfuse_parallel ? "; it has parallel direct writes and kernel passthrough (3.17)"
                                      : "; parallel direct writes and kernel passthrough need 3.17";
  text += version >= libfuse_uring ? ", FUSE over io_uring (3.18)" : ", FUSE over io_uring 3.18";
  findings.push_back({Severity::ok, "libfuse", text, ""});
}

}  // namespace

void check_machine(const Patient& patient, Findings& findings) {
  check_device(patient, findings);
  check_fusermount(patient, findings);
  check_kernel(findings);
  check_libfuse(findings);
}

}  // namespace limaquota
