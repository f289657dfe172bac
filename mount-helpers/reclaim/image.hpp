// What QEMU says of a disk image, and whether reclaim may work on it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "accounting/bytes.hpp"
#include "mount-helpers/reclaim/disk_lock.hpp"

namespace limaquota {

struct Image {
  std::string format;  // as QEMU recognises it, which is how Lima starts it
  Bytes virtual_size;
  uint64_t cluster = 0;  // bytes; qcow2 only
  nlohmann::json info;   // all that "qemu-img info --output=json" says
};

// Reads the image's header. Throws Refusal where reclaim must not touch it, saying why: another format than
// raw and qcow2, internal snapshots, encryption, an external data file, the dirty or the corrupt bit, and a
// version 2 with a backing file, whose clusters cannot be discarded.
Image examine_image(const DiskLock& lock);

// Throws Refusal, naming it, where another qcow2 of the home is backed by this one, directly or not. Files
// that QEMU cannot read count as backed by nothing.
void refuse_backing_file(const std::filesystem::path& home, const std::filesystem::path& disk);

// "qemu-img check" of a qcow2; leaked clusters are repaired first where `repair_leaks`. Throws Refusal where
// it is not clean, `when` saying when: "before", "after".
void check_image(const DiskLock& lock, const std::string& when, bool repair_leaks);

// Runs `qemu-img WORDS --output=json`. Anything but an object is null, with the reason in `complaint`. Throws
// Refusal where there is no qemu-img.
nlohmann::json ask_qemu_img(std::vector<std::string> words, std::string* complaint = nullptr);

// The file as qemu-img names it, opened without QEMU's own locking, which would meet ours. `driver` empty:
// recognised by its content.
std::string unlocked_name(const std::filesystem::path& disk, const std::string& driver);

}  // namespace limaquota
