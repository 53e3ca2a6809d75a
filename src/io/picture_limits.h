// How large a picture from a stranger may be.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "rondo/error.h"

namespace rondo {

/// Throws FileError, naming `source`, for more pixels than are read.
inline void check_picture_size(std::int64_t width, std::int64_t height, const std::string& source) {
  constexpr std::int64_t kMostPixels = std::int64_t{1} << 26;
  if (width * height > kMostPixels)
    throw FileError(fmt::format("{}: has {} x {} pixels; at most {} are read", source, width, height, kMostPixels));
}

}  // namespace rondo
