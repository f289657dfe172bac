#include "fs/system/log.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <iterator>
#include <utility>

#include "fs/system/fd.hpp"

namespace limaquota {
namespace {
std::atomic<bool> to_syslog{false};
LogDiversion::Sink diverted_to;

// A datagram to /dev/log, as syslog(3) sends it (RFC 3164). That function keeps a descriptor of its own,
// which must not be where several processes share their table of descriptors (fs/handover/notes.hpp).
void send_to_syslog(int priority, std::string_view message) {
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "/dev/log");
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return;
  const time_t now = ::time(nullptr);
  tm parts{};
  char head[64];
  char stamp[32];
  if (::localtime_r(&now, &parts) == nullptr || ::strftime(stamp, sizeof stamp, "%h %e %T", &parts) == 0)
    return;
  const int size = std::snprintf(head, sizeof head, "<%d>%s limaquota[%d]: ", priority, stamp,
                                 static_cast<int>(::getpid()));
  const iovec text[2] = {{head, static_cast<size_t>(size)},
                         {const_cast<char*>(message.data()), message.size()}};
  // A log that cannot be written has nowhere to say so.
  [[maybe_unused]] const ssize_t sent = ::writev(socket.get(), text, 2);
}

}  // namespace

LogDiversion::LogDiversion(Sink sink) { diverted_to = std::move(sink); }
LogDiversion::~LogDiversion() { diverted_to = nullptr; }

void log_to_syslog() { to_syslog = true; }

void log_line(LogLevel level, std::string_view message) {
  if (diverted_to) {
    diverted_to(level, message);
    return;
  }
  if (to_syslog) {
    const int priority = level == LogLevel::error     ? LOG_ERR
                         : level == LogLevel::warning ? LOG_WARNING
                                                      : LOG_INFO;
    send_to_syslog(LOG_DAEMON | priority, message);
    return;
  }
  constexpr std::string_view name = "limaquota: ";
  const std::string_view word = level == LogLevel::error     ? "error: "
                                : level == LogLevel::warning ? "warning: "
                                                             : "";
  iovec parts[4];
  size_t count = 0;
  for (const std::string_view part : {name, word, message, std::string_view("\n")})
    parts[count++] = {const_cast<char*>(part.data()), part.size()};
  // A log that cannot be written has nowhere to say so.
  [[maybe_unused]] const ssize_t written = ::writev(STDERR_FILENO, parts, 4);
}

void log_formatted(LogLevel level, fmt::string_view format, fmt::format_args args) noexcept {
  try {
    fmt::memory_buffer text;
    fmt::vformat_to(std::back_inserter(text), format, args);
    log_line(level, {text.data(), text.size()});
  } catch (const std::exception&) {
    log_line(level, "no memory for what was to be said");
  }
}

}  // namespace limaquota
