// The daemon's log: stderr while in front, syslog in the background. One line a message.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <functional>
#include <iterator>
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
// then.
template <class... Args>
void log_formatted(LogLevel level, fmt::format_string<Args...> format, Args&&... args) noexcept {
  try {
    fmt::memory_buffer text;
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    log_line(level, {text.data(), text.size()});
  } catch (const std::exception&) {
    log_line(level, "no memory for what was to be said");
  }
}

// Thread safety: all three may be called from any thread.
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::info, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::warning, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_formatted(LogLevel::error, format, std::forward<Args>(args)...);
}

}  // namespace limaquota
