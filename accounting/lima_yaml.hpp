// The one thing read from a VM's `lima.yaml`: its `disk:`, for a VM whose disk does not exist yet.
#pragma once

#include <optional>
#include <string_view>

#include "accounting/bytes.hpp"

namespace limaquota {

// The size in the top-level key `disk`; nothing where the text is no YAML mapping, has no such key, is over 1
// MiB, or the value is no size. Never throws. Thread safe.
std::optional<Bytes> lima_yaml_disk_size(std::string_view text);

}  // namespace limaquota
