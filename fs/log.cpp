#include "fs/log.hpp"

#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <string>
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
  const char* word = level == LogLevel::error ? "error: " : level == LogLevel::warning ? "warning: " : "";
  const std::string line = fmt::format("limaquota: {}{}\n", word, message);
  // A log that cannot be written has nowhere to say so.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace limaquota
