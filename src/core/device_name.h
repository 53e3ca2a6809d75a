// Devices by name.
#pragma once

#include <optional>
#include <string_view>

#include "rondo/device.h"

namespace rondo {

/// "cpu", "cuda", "ascend"
std::string_view device_kind_name(DeviceKind kind);

/// Nothing for a name that is none of them.
std::optional<DeviceKind> find_device_kind(std::string_view name);

/// The device that "cpu", "cuda" or "ascend:1" names. Throws InvalidArgument, naming `source`.
Device parse_device(std::string_view text, std::string_view source);

}  // namespace rondo
