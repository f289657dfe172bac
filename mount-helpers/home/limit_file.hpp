// Limits as the commands read and write them: the files of `.quota`, by one write(2) each, so that half a
// number is never in force.
#pragma once

#include <optional>
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
// The text of the account's limit file as it stands, damaged or not; nothing where there is none. Throws
// Refusal.
std::optional<std::string> limit_text(const std::string& home, const std::string& account);
// Makes it so again; nothing: no file. Throws Refusal.
void restore_limit_text(const std::string& home, const std::string& account,
                        const std::optional<std::string>& text);

}  // namespace limaquota
