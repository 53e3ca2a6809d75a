// Picture files of every format that Rondo writes and reads: PNG, JPEG, WebP, with the request that made them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "rondo/image.h"

namespace rondo {

enum class PictureFormat : std::uint8_t { png, jpeg, webp };

/// By the extension of a file's name: .jpg, .jpeg and .webp in any case, PNG for every other.
PictureFormat picture_format(const std::filesystem::path& name);

/// Throws InvalidArgument, before any work, where a picture of this size with this request does not fit into the
/// format.
void check_picture(PictureFormat format, std::int64_t width, std::int64_t height,
                   const std::optional<std::string>& request);

/// A file's bytes. `request` is JSON text; it stands in a PNG's iTXt chunk "rondo", else in the Exif UserComment, as
/// ASCII. `quality`, 1 to 100, is read by JPEG and WebP.
std::vector<std::byte> encode_picture(const Image& image, PictureFormat format, int quality,
                                      const std::optional<std::string>& request);

/// The request that a picture carries; nothing where it carries none. Throws FileError for what is no picture.
std::optional<std::string> read_picture_request(const std::filesystem::path& path);

/// The picture itself as 8-bit RGB, whatever the file's name says. Throws FileError, also for too many pixels.
Image read_picture(const std::filesystem::path& path);

}  // namespace rondo
