// Pictures as the pipelines hand them out.
#pragma once

#include <cstdint>
#include <vector>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

/// 8-bit RGB, rows from top to bottom, no padding: pixels has width * height * 3 bytes.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;
};

}  // namespace RONDO_PUBLIC
