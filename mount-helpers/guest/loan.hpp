// Room that a VM is lent for as long as something is done with it.
#pragma once

#include <chrono>
#include <string>

#include "accounting/limits.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// A loan: room lent to an account while this object lives. It ends by itself at `duration` from the last
// lending, whatever becomes of this process: the daemon sees to that. One at a time lends to an account,
// since the first to end would end the other's loan, or the second bring the first's back. Not thread safe.
class Lent {
 public:
  // Adds to the account's limit what makes a disk write of `amount` fit its budget: `amount`, and what the
  // account holds beyond its disk line, as one that is `over` does. An account without a limit gets no loan;
  // a loan that is in force already is kept where it is larger or longer, and afterwards. Throws Refusal,
  // also where another process lends to the account.
  Lent(std::string home, std::string account, Bytes amount, std::chrono::seconds duration);
  ~Lent();  // ends the loan; an error is printed, for the loan then ends by its time
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

  // Lends once more, where the first loan was used up. Throws Refusal.
  void again(Bytes amount, std::chrono::seconds duration);
  // False where the account has no limit, so that there was nothing to lend.
  bool is_active() const { return active_; }
  // Ends the loan now. Throws Refusal.
  void end();

 private:
  std::string home_;
  std::string account_;
  Fd lock_;  // of the VM's lima.yaml, which no one else locks
  Limits before_;
  bool had_file_ = false;
  bool active_ = false;
};

}  // namespace limaquota
