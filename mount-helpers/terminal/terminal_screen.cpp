// Redrawing in place.
#include <fmt/core.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <initializer_list>

#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr std::string_view hide_cursor = "\033[?25l";
constexpr std::string_view show_cursor = "\033[?25h";
// A line that is too long is cut by the terminal, so that a line of text is a row of the screen.
constexpr std::string_view cut_lines = "\033[?7l";
constexpr std::string_view wrap_lines = "\033[?7h";
constexpr std::string_view clear_screen = "\033[H\033[2J";
constexpr std::string_view clear_row_end = "\033[K";
constexpr std::string_view clear_below = "\033[J";

class TakenSignals {
 public:
  TakenSignals() {
    ::sigemptyset(&set_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) ::sigaddset(&set_, signal);
    ::sigprocmask(SIG_BLOCK, &set_, &before_);
  }
  ~TakenSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  TakenSignals(const TakenSignals&) = delete;
  TakenSignals& operator=(const TakenSignals&) = delete;

  // The signal that came within the time, or 0.
  int wait(std::chrono::milliseconds time) const {
    const timespec until{time.count() / 1000, (time.count() % 1000) * 1'000'000};
    return std::max(0, ::sigtimedwait(&set_, nullptr, &until));
  }

 private:
  sigset_t set_{};
  sigset_t before_{};
};

class Screen {
 public:
  Screen() : terminal_(::isatty(STDOUT_FILENO) == 1) { put({terminal_ ? hide_cursor : ""}); }
  ~Screen() {
    try {
      put({terminal_ ? show_cursor : ""});
    } catch (const Refusal&) {  // the terminal is gone
    }
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void draw(std::string_view text) {
    if (!terminal_) {
      put({drawn_ ? "\n" : "", text});
      drawn_ = true;
      return;
    }
    winsize size{};
    ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    // A terminal of another width has wrapped what stood there: where that is now nobody knows.
    const bool resized = drawn_ && (size.ws_row != size_.ws_row || size.ws_col != size_.ws_col);
    size_ = size;
    std::string out(cut_lines);
    if (resized) {
      out += clear_screen;
    } else if (rows_ > 0) {
      out += fmt::format("\r\033[{}A", rows_);
    }
    // The last row is the cursor's: a line feed there would scroll.
    const size_t room = size.ws_row > 1 ? size.ws_row - 1U : SIZE_MAX;
    for (rows_ = 0; !text.empty() && rows_ < room; ++rows_) {
      const size_t end = std::min(text.find('\n'), text.size());
      out.append(text.substr(0, end)).append(clear_row_end).append("\n");
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    out.append(clear_below).append(wrap_lines);
    put({out});
    drawn_ = true;
  }

  void stop_with_process() {
    put({terminal_ ? show_cursor : ""});
    ::raise(SIGSTOP);
    rows_ = 0;  // the shell has written below
    put({terminal_ ? hide_cursor : ""});
  }

 private:
  static void put(std::initializer_list<std::string_view> parts) {
    bool written = true;
    for (const std::string_view part : parts) {
      written = written && std::fwrite(part.data(), 1, part.size(), stdout) == part.size();
    }
    if (std::fflush(stdout) != 0 || !written) throw Refusal("cannot write to standard output");
  }

  bool terminal_;
  bool drawn_ = false;
  size_t rows_ = 0;  // above the cursor, ours
  winsize size_{};
};

}  // namespace

void show_repeatedly(const std::function<std::string()>& text, std::chrono::milliseconds period) {
  const TakenSignals signals;
  Screen screen;
  while (true) {
    screen.draw(text());
    const int signal = signals.wait(period);
    if (signal == SIGTSTP) screen.stop_with_process();
    if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) return;
  }
}

}  // namespace limaquota
