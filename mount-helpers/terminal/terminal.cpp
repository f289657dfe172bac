#include "mount-helpers/terminal/terminal.hpp"

#include <fmt/core.h>
#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>

#include "accounting/size_text.hpp"
#include "mount-helpers/command/refusal.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds quiet{1000};
constexpr std::chrono::milliseconds redraw{200};
constexpr std::chrono::milliseconds next_plain_line{10'000};
constexpr size_t progress_cells = 24;

bool is_dumb() {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && std::strcmp(terminal, "dumb") == 0;
}

bool speaks_unicode() {
  std::setlocale(LC_CTYPE, "");
  return std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
}

}  // namespace

TableStyle style_of_output() {
  const char* no_color = std::getenv("NO_COLOR");
  return {.colour = ::isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || *no_color == '\0') && !is_dumb(),
          .unicode = speaks_unicode()};
}

size_t columns_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xc0) != 0x80; }));
}

std::string printable(std::string_view text) {
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; }, '?');
  return line;
}

std::string bar_text(double share, size_t cells, bool unicode) {
  const auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(cells));
  std::string text;
  for (size_t cell = 0; cell < cells; ++cell) {
    text += cell < filled ? (unicode ? "█" : "#") : (unicode ? "░" : "-");
  }
  return text;
}

Progress::Progress(std::string title, std::optional<Bytes> total)
    : title_(std::move(title)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1 && !is_dumb()),
      started_(Clock::now()),
      next_(started_ + quiet) {}

Progress::~Progress() { clear(); }

void Progress::show(Bytes done) {
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? redraw : next_plain_line);
  std::string text = fmt::format("{}: {}", title_, format_size(done));
  if (total_ && total_->count() > 0) {
    const double share = static_cast<double>(done.count()) / static_cast<double>(total_->count());
    text +=
        fmt::format(" of {} ({} %)", format_size(*total_), static_cast<unsigned>(std::min(share, 1.0) * 100));
    if (terminal_) text = bar_text(share, progress_cells, speaks_unicode()) + "  " + text;
  }
  // \033[K: what an earlier, longer line left on the right goes.
  std::fputs(fmt::format("{}{}{}", terminal_ ? "\r" : "", text, terminal_ ? "\033[K" : "\n").c_str(), stderr);
  drawn_ = terminal_;
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);  // a destructor comes here
  drawn_ = false;
  next_ = Clock::now();
}

void warn(const std::string& line) noexcept {
  std::fputs(line.c_str(), stderr);  // which is not buffered
  std::fputc('\n', stderr);
}

bool confirm(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1) {
    throw Refusal(question + " Nobody is there to answer; --yes answers it");
  }
  fmt::print(stderr, "{} [y/N] ", question);
  std::string answer;
  return std::getline(std::cin, answer) && (answer == "y" || answer == "Y" || answer == "yes");
}

}  // namespace limaquota
