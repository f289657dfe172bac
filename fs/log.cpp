#include "fs/log.hpp"

#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <utility>

namespace limaquota {
namespace {
std::atomic<bool> to_syslog{false};
LogDiversion::Sink diverted_to;
}  // namespace

LogDiversion::LogDiversion(Sink sink) { diverted_to = std::move(sink); }
LogDiversion::~LogDiversion() { diverted_to = nullptr; }

void log_to_syslog() {
  openlog("limaquota", LOG_PID, LOG_DAEMON);
  to_syslog = true;
}

void log_line(LogLevel level, std::string_view message) {
  if (diverted_to) {
    diverted_to(level, message);
    return;
  }
  if (to_syslog) {
    const int priority = level == LogLevel::error     ? LOG_ERR
                         : level == LogLevel::warning ? LOG_WARNING
                                                      : LOG_INFO;
    syslog(priority, "%.*s", static_cast<int>(message.size()), message.data());
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

}  // namespace limaquota
