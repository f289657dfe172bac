// Limits as the commands read and write them: the files of `.quota`, by one write(2) each, so that half a
// number is never in force.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "accounting/limits.hpp"
#include "fs/system/fd.hpp"

namespace limaquota {

// What `.quota/<account>` says; the default's limits where the account has no file of its own. Throws
// Refusal.
Limits read_limits(const std::string& home, const std::string& account);
bool has_limit_file(const std::string& home, const std::string& account);
// In force, and durable, when it returns. Throws Refusal.
void write_limits(const std::string& home, const std::string& account, const Limits& limits);
// A lone limit: what else the file says stays. Throws Refusal.
void write_limit(const std::string& home, const std::string& account, Bytes limit);
// The account goes back to the default. No error where it has no file. Throws Refusal.
void remove_limits(const std::string& home, const std::string& account);
// The text of the account's limit file as it stands, damaged or not; nothing where there is none. Throws
// Refusal.
std::optional<std::string> limit_text(const std::string& home, const std::string& account);
// Makes it so again; nothing: no file. Throws Refusal.
void restore_limit_text(const std::string& home, const std::string& account,
                        const std::optional<std::string>& text);

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
