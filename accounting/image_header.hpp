// Format and virtual size of a disk image, from its first bytes, none of which is trusted: a guest may have
// written them. qcow2: QEMU docs/interop/qcow2.txt. Pure functions; thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "accounting/bytes.hpp"

namespace limaquota {

enum class ImageFormat { raw, qcow2 };
std::string_view to_string(ImageFormat format);

struct ImageHeader {
  ImageFormat format = ImageFormat::raw;
  Bytes virtual_size;
};

inline constexpr size_t image_header_bytes = 112;  // read so many; fewer where the file is shorter

// What the first bytes of an image say. Magic "QFI\xfb" with version 2 or 3, a cluster_bits of 9..21 and a
// size of at most 2^63 - 1 is qcow2; anything else, a lying header too, is raw with `file_size` (a raw guest
// may write any magic).
ImageHeader parse_image_header(std::span<const std::byte> head, Bytes file_size);

}  // namespace limaquota
