// WebP pictures with Exif metadata, by libwebp.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "rondo/image.h"

namespace rondo {

/// Pixels that a side of a WebP picture may have.
constexpr int kLongestWebpSide = 16383;

/// A WebP file's bytes, of quality 1 to 100 (with loss). Throws InvalidArgument for a longer side.
std::vector<std::byte> encode_webp(const Image& image, int quality, std::span<const std::byte> exif);

/// The Exif structure of a WebP file; empty where it has none. Throws FileError, naming `source`.
std::vector<std::byte> read_webp_exif(std::span<const std::byte> file, const std::string& source);

/// The picture (of an animation, refused) as 8-bit RGB; alpha is dropped. Throws FileError.
Image decode_webp(std::span<const std::byte> file, const std::string& source);

}  // namespace rondo
