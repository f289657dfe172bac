// Headers of disk images, which a guest may have written.
#include "accounting/image_header.hpp"

#include <endian.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <span>
#include <string>

#include "tests/fuzz/fuzz.hpp"

namespace limaquota::fuzz {
namespace {

std::string big_endian(uint64_t value, size_t bytes) {
  const uint64_t swapped = htobe64(value);
  std::string text(sizeof(swapped), '\0');
  std::memcpy(text.data(), &swapped, sizeof(swapped));
  return text.substr(text.size() - bytes);
}

uint64_t big_endian_at(const std::string& head, size_t at, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(reinterpret_cast<char*>(&value) + sizeof(value) - bytes, head.data() + at, bytes);
  return be64toh(value);
}

// An input is the size of the file, and its first bytes.
std::string image(uint64_t file_size, const std::string& head) { return big_endian(file_size, 8) + head; }

std::string qcow2(uint64_t version, uint64_t cluster_bits, uint64_t size) {
  std::string head = "QFI\xfb" + big_endian(version, 4) + std::string(12, '\0') +
                     big_endian(cluster_bits, 4) + big_endian(size, 8);
  head.resize(image_header_bytes, '\0');
  return head;
}

std::string hostile_image(Mutator& random, const Corpus& corpus) {
  struct Field {
    size_t at, bytes;
  };
  static constexpr std::array<Field, 4> fields = {{{4, 4}, {20, 4}, {24, 8}, {100, 4}}};
  // Changed bytes move what is behind them: half the inputs have only their fields changed.
  std::string input = random.below(2) == 0 ? random.mutate(corpus) : corpus[random.below(corpus.size())];
  for (size_t changes = random.below(3); changes > 0; --changes) {
    const Field field = fields[random.below(fields.size())];
    if (input.size() >= 8 + field.at + field.bytes) {
      input.replace(8 + field.at, field.bytes, big_endian(edge(random), field.bytes));
    }
  }
  if (random.below(2) == 0 && input.size() >= 8) input.replace(0, 8, big_endian(edge(random), 8));
  return input;
}

bool check_image(const std::string& input) {
  if (input.size() < 8) return false;
  const Bytes file_size(big_endian_at(input, 0, 8));
  const std::string head = input.substr(8);
  const ImageHeader header =
      parse_image_header(std::as_bytes(std::span(head.data(), head.size())), file_size);
  const bool is_qcow2 = head.size() >= 32 && head.starts_with("QFI\xfb") &&
                        (big_endian_at(head, 4, 4) == 2 || big_endian_at(head, 4, 4) == 3) &&
                        big_endian_at(head, 20, 4) >= 9 && big_endian_at(head, 20, 4) <= 21 &&
                        (static_cast<unsigned char>(head[24]) & 0x80) == 0;
  EXPECT_EQ(header.format, is_qcow2 ? ImageFormat::qcow2 : ImageFormat::raw);
  EXPECT_EQ(header.virtual_size, is_qcow2 ? Bytes(big_endian_at(head, 24, 8)) : file_size);
  return is_qcow2;
}

TEST(FuzzImageHeader, SaysWhatTheBytesSayOrTheSizeOfTheFile) {
  const Corpus corpus = {image(196616, qcow2(2, 16, 100ULL << 30)),
                         image(1ULL << 40, qcow2(3, 21, ~uint64_t{0} >> 1)),
                         image(0, qcow2(3, 9, 0)),
                         image(4096, qcow2(3, 16, 512).substr(0, 32)),
                         image(1ULL << 30, std::string(image_header_bytes, '\0')),
                         image(~uint64_t{0} >> 1, "KDMV" + std::string(108, '\x01'))};
  run([&](Mutator& random) { return hostile_image(random, corpus); }, check_image);
}

}  // namespace
}  // namespace limaquota::fuzz
