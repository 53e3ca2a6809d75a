// Exif metadata (JEITA CP-3451) with one text in it, for pictures whose format has no text chunks of its own.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

/// A TIFF structure with Software and, as UserComment, `comment`. Both must be ASCII.
std::vector<std::byte> encode_exif(std::string_view software, std::string_view comment);

/// The ASCII UserComment of a TIFF structure of either byte order; nothing where there is none or the bytes are no such
/// structure. Reads nothing outside `exif`.
std::optional<std::string> read_exif_comment(std::span<const std::byte> exif);

}  // namespace rondo
