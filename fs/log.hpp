// The daemon's log: stderr while in front, syslog in the background. One line a message.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>

namespace limaquota {

enum class LogLevel { info, warning, error };

// Where messages go; called once, before threads start.
void log_to_syslog();
// While it lives messages go to `sink` instead, which may be called from any thread. One at a time; made and
// ended where no other thread logs.
class LogDiversion {
 public:
  using Sink = std::function<void(LogLevel, std::string_view)>;
  explicit LogDiversion(Sink sink);
  ~LogDiversion();
  LogDiversion(const LogDiversion&) = delete;
  LogDiversion& operator=(const LogDiversion&) = delete;
};
void log_line(LogLevel level, std::string_view message);

// Thread safety: all three may be called from any thread.
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace limaquota
