#include "accounting/image_header.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

constexpr uint64_t largest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
constexpr Bytes file_size = 4_MiB;

std::string big_endian(uint64_t value, int bytes) {
  std::string text;
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift & 0xff);
  return text;
}

std::string qcow2(uint64_t version, uint64_t cluster_bits, uint64_t size) {
  std::string head = "QFI\xfb" + big_endian(version, 4) + big_endian(0, 8) + big_endian(0, 4) +
                     big_endian(cluster_bits, 4) + big_endian(size, 8);
  head.resize(image_header_bytes, '\0');
  return head;
}

ImageHeader parse(const std::string& head) {
  return parse_image_header(std::as_bytes(std::span(head.data(), head.size())), file_size);
}

void expect_raw(const std::string& head) {
  EXPECT_EQ(parse(head).format, ImageFormat::raw);
  EXPECT_EQ(parse(head).virtual_size, file_size);
}

TEST(ImageHeader, ReadsQcow2) {
  for (const uint64_t version : {2, 3}) {
    for (const uint64_t cluster_bits : {9, 16, 21}) {
      const ImageHeader header = parse(qcow2(version, cluster_bits, 100ULL << 30));
      EXPECT_EQ(header.format, ImageFormat::qcow2);
      EXPECT_EQ(header.virtual_size, 100_GiB);
    }
  }
  EXPECT_EQ(parse(qcow2(3, 16, largest)).virtual_size, Bytes(largest));
  EXPECT_EQ(parse(qcow2(3, 16, 0)).virtual_size, 0_B);
}

TEST(ImageHeader, ALyingHeaderIsRaw) {
  expect_raw(qcow2(0, 16, 1 << 30));
  expect_raw(qcow2(1, 16, 1 << 30));
  expect_raw(qcow2(4, 16, 1 << 30));
  expect_raw(qcow2(0x03000000, 16, 1 << 30));
  expect_raw(qcow2(3, 8, 1 << 30));
  expect_raw(qcow2(3, 22, 1 << 30));
  expect_raw(qcow2(3, 0xffffffff, 1 << 30));
  expect_raw(qcow2(3, 16, largest + 1));
  expect_raw(qcow2(3, 16, ~uint64_t{0}));
}

TEST(ImageHeader, AnythingElseIsRaw) {
  expect_raw("");
  expect_raw("QFI\xfb");
  expect_raw("KDMV" + std::string(108, '\0'));
  expect_raw(std::string(image_header_bytes, '\0'));
}

TEST(ImageHeader, AHeaderCutShortIsRaw) {
  const std::string head = qcow2(3, 16, 1 << 30);
  for (size_t length = 0; length < 32; ++length) expect_raw(head.substr(0, length));
}

TEST(ImageHeader, FormatsHaveNames) {
  EXPECT_EQ(to_string(ImageFormat::raw), "raw");
  EXPECT_EQ(to_string(ImageFormat::qcow2), "qcow2");
}

TEST(ImageHeader, SurvivesMutatedHeaders) {
  const std::vector<std::string> seeds = {qcow2(2, 16, 1 << 30), qcow2(3, 21, largest), qcow2(3, 9, 0)};
  Mutator mutator(13);
  int qcow2_seen = 0;
  for (int i = 0; i < 50000; ++i) {
    const ImageHeader header = parse(mutator.mutate(seeds));
    if (header.format == ImageFormat::qcow2) {
      ++qcow2_seen;
      ASSERT_LE(header.virtual_size, Bytes(largest));
    } else {
      ASSERT_EQ(header.virtual_size, file_size);
    }
  }
  EXPECT_GT(qcow2_seen, 1000);
}

}  // namespace
}  // namespace limaquota
