// Keeping a guest going for as long as something is done with it: where it is paused for space, its VM is
// lent room, and it is told to go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "accounting/bytes.hpp"
#include "accounting/figures.hpp"
#include "mount-helpers/guest/loan.hpp"
#include "mount-helpers/guest/qmp.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/guard.hpp"

namespace limaquota {

// How much is lent each time where nobody says.
inline constexpr std::string_view default_loan = "256MiB";

// What was found of the guest, and done for it.
struct Kept {
  enum class Guest : uint8_t {
    goes_on,       // it runs, or does again
    stands_still,  // for another reason than space: left alone
    again,         // it went on, and is paused for space again at once: worth another try
    no_answer,     // though something runs there: `why` says so
    gone,          // no QEMU runs there: `why` says so
    no_more_help   // it stays paused for space; `why` says why, and what to do
  };
  Guest guest = Guest::goes_on;
  GuestState state = GuestState::running;  // as it was found
  std::string why;
};

// A loan of it ends with this object, and also where this process is killed. Not thread safe; for a process
// with one thread (programs/guard.hpp).
class KeptGoing {
 public:
  // Lends so often at most.
  static constexpr unsigned most_loans = 2;
  struct Terms {
    Bytes loan;                       // each time
    std::chrono::seconds duration;    // of a loan, from the last lending, where nobody ends it
    std::string option;               // by which the user lends more: "--lend"
    std::function<void()> on_lent;    // called when room was lent
    std::function<bool()> may_go_on;  // waiting for the figures ends, by Refusal, where it says no
  };
  KeptGoing(std::string home, LimaVm vm, Terms terms);

  // The VM's figures now; nothing where it has no account. Throws Refusal.
  std::optional<AccountFigures> figures();
  // Whether a write of the VM was refused of which its guest may be paused.
  bool was_refused(const AccountFigures& figures) const { return figures.refused_writes != refused_; }
  // Looks at the guest, within the deadline, and helps it where it is paused for space. Throws Refusal.
  Kept look(std::chrono::milliseconds deadline = qmp_deadline);
  // Ends the loan. False where there was none. Throws Refusal.
  bool end();
  bool has_lent() const { return loans_ > 0; }

 private:
  Kept help();
  void lend();
  std::string why_paused_again(unsigned loans_before);

  const std::string home_;
  const LimaVm vm_;
  const Terms terms_;
  ReportReader report_;
  std::optional<Lent> lent_;
  std::optional<Guard> guard_;  // ends the loan where this process is killed
  unsigned loans_ = 0;
  uint64_t refused_ = 0;  // as counted when it was last told to go on, or twice found running
  uint64_t seen_ = 0;     // as counted when it was last found running
};

}  // namespace limaquota
