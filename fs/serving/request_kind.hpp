// What a request says of itself before libfuse has decoded it. Format: <linux/fuse.h>.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

namespace limaquota {

// The largest data of a request or a reply, beside its headers: max_write of INIT.
inline constexpr size_t largest_payload = size_t{1} << 20;
// With its headers.
inline constexpr size_t largest_request = largest_payload + (size_t{64} << 10);

// The fixed part of a request's arguments, behind its header; null where the request is too short for it.
template <class Body>
const Body* body_of(const char* data, size_t size) {
  if (size < sizeof(fuse_in_header) + sizeof(Body)) return nullptr;
  return reinterpret_cast<const Body*>(data + sizeof(fuse_in_header));
}

// Whether set-id bits of its file are to go before it is carried out: a bit that libfuse 3.14 keeps to
// itself.
bool kills_set_id(const char* data, size_t size);
// Whether it would not do the same when it is carried out twice.
bool may_not_be_repeated(uint32_t opcode);
// Whether there is an operation for it (fs/serving/operations.hpp); libfuse refuses all others with ENOSYS.
bool is_served(uint32_t opcode);
// Whether it must not wait for a busy account: it is quick, or lets the account go on.
bool never_waits(uint32_t opcode);

}  // namespace limaquota
