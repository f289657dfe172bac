// qemu-img, run on files whose locks are ours.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "accounting/bytes.hpp"
#include "accounting/json_fwd.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {

// The file as qemu-img names it, opened without QEMU's own locking, which would meet ours. `driver` empty:
// recognised by its content.
std::string unlocked_name(const std::filesystem::path& disk, const std::string& driver);

// Runs `qemu-img WORDS --output=json`. Anything but an object is null, with the reason in `complaint`. Throws
// Refusal where there is no qemu-img.
Json ask_qemu_img(std::vector<std::string> words, std::string* complaint = nullptr);

// How far a run of qemu-img is shown to be.
struct Ahead {
  std::string title;  // "compress disk"
  Bytes total;
  // By what it has read, of which `total` is an estimate; else by what it says itself, called with -p.
  bool by_reading = false;
};

// Runs qemu-img, words[0], with a progress line. It inherits the descriptors `keep`, locks with them, and
// ends when this process does.
Ended run_qemu_img(const std::vector<std::string>& words, const std::vector<int>& keep, const Ahead& ahead);

}  // namespace limaquota
