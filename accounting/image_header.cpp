#include "accounting/image_header.hpp"

#include <limits>

namespace limaquota {
namespace {

// Offsets of the fields in a qcow2 header, all big endian.
constexpr size_t magic_at = 0;
constexpr size_t version_at = 4;
constexpr size_t cluster_bits_at = 20;
constexpr size_t size_at = 24;
constexpr size_t fields_end = 32;

constexpr uint64_t qcow2_magic = 0x514649fb;  // "QFI\xfb"

uint64_t big_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<uint64_t>(byte);
  return value;
}

}  // namespace

std::string_view to_string(ImageFormat format) { return format == ImageFormat::qcow2 ? "qcow2" : "raw"; }

ImageHeader parse_image_header(std::span<const std::byte> head, Bytes file_size) {
  const ImageHeader raw{ImageFormat::raw, file_size};
  if (head.size() < fields_end || big_endian(head.subspan(magic_at, 4)) != qcow2_magic) return raw;
  const uint64_t version = big_endian(head.subspan(version_at, 4));
  if (version != 2 && version != 3) return raw;
  const uint64_t cluster_bits = big_endian(head.subspan(cluster_bits_at, 4));
  if (cluster_bits < 9 || cluster_bits > 21) return raw;
  const uint64_t size = big_endian(head.subspan(size_at, 8));
  if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return raw;
  return {ImageFormat::qcow2, Bytes(size)};
}

}  // namespace limaquota
