// What the commands know of the terminal: colour, blocks, a progress line, a question.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "accounting/bytes.hpp"

namespace limaquota {

struct TableStyle {
  bool colour = false;   // ANSI colours
  bool unicode = false;  // blocks in bars; else # and -
};

// Of standard output. Colour only on a terminal that is not dumb, and never where NO_COLOR is set to anything
// but nothing (no-color.org).
TableStyle style_of_output();
// Columns that text takes on a terminal: characters, not bytes, of UTF-8.
size_t columns_of(std::string_view text);
// One line of another program's words, without what a terminal might obey: control characters become '?'.
std::string printable(std::string_view text);
// "████░░░░": share 0..1 of `cells`, rounded down, so that a full bar means all of it.
std::string bar_text(double share, size_t cells, bool unicode);

// A line on standard error that says how far a long work is: redrawn in place on a terminal, else a line of
// its own every ten seconds. Nothing is shown in the first second. Cleared when it goes out of scope. Not
// thread safe.
class Progress {
 public:
  // `total` unknown: only what is done is shown.
  Progress(std::string title, std::optional<Bytes> total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(Bytes done);
  // Takes the line away, so that other text can be printed; show() brings it back.
  void clear();

 private:
  std::string title_;
  std::optional<Bytes> total_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point next_;
};

// A text on standard output that is shown again and again, every `period`, until SIGINT, SIGTERM or SIGHUP.
// On a terminal it is redrawn in place, also when the window changes; what does not fit is cut off; the
// cursor is hidden and comes back at the end, also when `text` throws, and while stopped by ^Z. Elsewhere the
// texts follow each other. Not thread safe: no other thread may be there, since signals are taken.
void show_repeatedly(const std::function<std::string()>& text, std::chrono::milliseconds period);

// A line on standard error. Never throws: that it cannot be written there undoes nothing and stops nothing.
void warn(const std::string& line) noexcept;

// Asks a question that is answered by y or n. Where standard input is no terminal nobody can answer: throws
// Refusal, saying that `--yes` answers it.
bool confirm(const std::string& question);

}  // namespace limaquota
