// JPEG pictures with Exif metadata, by libjpeg-turbo.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rondo/image.h"

namespace rondo {

/// A JPEG file's bytes, of quality 1 to 100; from 90 on colours have the resolution of brightness. Throws
/// InvalidArgument for `exif` of more than the format's 65,527 bytes.
std::vector<std::byte> encode_jpeg(const Image& image, int quality, std::span<const std::byte> exif);
constexpr std::size_t kMostJpegExifBytes = 65527;

/// Pixels that a side of a JPEG picture may have, as libjpeg writes it.
constexpr int kLongestJpegSide = 65500;

/// The Exif structure of a JPEG file; empty where it has none. Throws FileError, naming `source`.
std::vector<std::byte> read_jpeg_exif(std::span<const std::byte> file, const std::string& source);

/// The picture, converted to 8-bit RGB. Throws FileError, also for a file that ends early.
Image decode_jpeg(std::span<const std::byte> file, const std::string& source);

}  // namespace rondo
