// The daemon's log: stderr while in front, syslog in the background. One line a message.
#pragma once

#include <fmt/core.h>

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

// A message of usual length takes no memory from the heap: a lack of it can be told. A longer one is dropped
// then. No template: formatting is compiled once, not in each source that logs.
void log_formatted(LogLevel level, fmt::string_view format, fmt::format_args args) noexcept;

// Thread safety: all three may be called from any thread.
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::info, format, fmt::make_format_args(args...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::warning, format, fmt::make_format_args(args...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::error, format, fmt::make_format_args(args...));
}

}  // namespace limaquota
