// Limits as the commands read and write them: the files of `.quota`, by one write(2) each, so that half a
// number is never in force.
#pragma once

#include <chrono>
#include <string>

#include "accounting/limits.hpp"

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

// A loan: bytes added to the account's limit while this object lives. It ends by itself at `duration` from
// its making, whatever becomes of this process: the daemon sees to that. Not thread safe.
class Lent {
 public:
  // Throws Refusal. An account without a limit gets no loan, and a loan somebody else gave is kept where it
  // is larger or longer.
  Lent(std::string home, std::string account, Bytes amount, std::chrono::seconds duration);
  ~Lent();  // ends the loan; an error is printed, for the loan then ends by its time
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

  // Ends the loan now. Throws Refusal.
  void end();

 private:
  std::string home_;
  std::string account_;
  Limits before_;
  bool had_file_ = false;
  bool active_ = false;
};

}  // namespace limaquota
