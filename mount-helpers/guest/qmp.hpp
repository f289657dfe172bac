// QEMU's monitor protocol, as far as limaquota needs it. QMP serves one client at a time, and Lima's own
// connect has no deadline: so connect, say little, disconnect. Source: QEMU docs/interop/qmp-spec.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "accounting/json_fwd.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// QEMU refused the command, did not answer in time, or is not there. The text is one line for people.
struct QmpError : std::runtime_error {
  explicit QmpError(const std::string& text, bool nobody_listens = false)
      : std::runtime_error(text), nobody(nobody_listens) {}
  bool nobody;  // no socket, or a stale one: no QEMU runs there
};

inline constexpr std::chrono::milliseconds qmp_deadline{5000};

// One short connection. Not thread safe.
class Qmp {
 public:
  // Connects and leaves the greeting behind. Everything that this object does must be done within the
  // deadline. Throws QmpError.
  explicit Qmp(const std::filesystem::path& socket, std::chrono::milliseconds deadline = qmp_deadline);

  // Says one thing and gives its "return"; events on the way are dropped. Throws QmpError.
  Json ask(const std::string& command);
  // The same, where nothing is to be known but that QEMU did it.
  void tell(const std::string& command);

 private:
  Json next_line();
  void wait(short events);

  std::string name_;  // the socket's path, for messages
  Fd socket_;
  std::chrono::steady_clock::time_point until_;
  std::string pending_;
};

// no_space: QEMU paused it because a disk write met ENOSPC; `cont` makes it go on. failed: paused by another
// I/O error. paused: by somebody's hand.
enum class GuestState { running, no_space, failed, paused, ended };
std::string_view to_string(GuestState state);
// Asks query-status and, where the guest was stopped by an I/O error, query-block. Throws QmpError.
GuestState guest_state(Qmp& qmp);

// What became of one short conversation with a guest's QEMU.
struct GuestAnswer {
  enum class Reached { yes, nobody, silent };
  Reached reached = Reached::yes;  // nobody: no QEMU runs there; silent: something does, but gives no answer
  GuestState state = GuestState::running;  // as found
  bool continued = false;                  // it was paused for space, and was sent `cont`
  bool paused_again = false;               // and met the next refusal at once
  std::string why;                         // where it was not reached

  bool is_paused() const { return reached == Reached::yes && state == GuestState::no_space; }
};
// Asks the guest's state and, where it is paused for space (never where it is paused for another reason) and
// may go on, sends `cont`. Takes at most the deadline. Thread safe.
enum class GuestMay : uint8_t { only_answer, go_on };
GuestAnswer ask_guest(const std::filesystem::path& socket, GuestMay may,
                      std::chrono::milliseconds deadline = qmp_deadline);

}  // namespace limaquota
