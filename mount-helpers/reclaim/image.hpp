// What QEMU says of a disk image, and whether reclaim may work on it.
#pragma once

#include <filesystem>
#include <string>

#include "accounting/bytes.hpp"
#include "accounting/json.hpp"
#include "mount-helpers/reclaim/disk_lock.hpp"

namespace limaquota {

struct Image {
  std::string format;  // as QEMU recognises it, which is how Lima starts it
  Bytes virtual_size;
  uint64_t cluster = 0;  // bytes; qcow2 only
  Json info;             // all that "qemu-img info --output=json" says
};

// Reads the image's header. Throws Refusal where reclaim must not touch it, saying why: another format than
// raw and qcow2, internal snapshots, encryption, an external data file, the dirty or the corrupt bit, and a
// version 2 with a backing file, whose clusters cannot be discarded.
Image examine_image(const DiskLock& lock);

// Throws Refusal, naming it, where another qcow2 of the home is backed by this one, directly or not. Files
// that QEMU cannot read count as backed by nothing.
void refuse_backing_file(const std::filesystem::path& home, const std::filesystem::path& disk);

// "qemu-img check", with a progress line, of a qcow2: the locked one, or the one at `path` that is to take
// its place. Leaked clusters are repaired first where `repair_leaks`. Returns what the guest's clusters
// occupy in the file: data, compressed, and those that read as zeros but keep their place. Throws Refusal
// where it is not clean, `when` saying when: "before", "after".
Bytes check_image(const DiskLock& lock, const std::filesystem::path& path, const Image& image,
                  const std::string& when, bool repair_leaks);

}  // namespace limaquota
