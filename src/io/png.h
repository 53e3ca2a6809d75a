// PNG pictures with text in their metadata.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "rondo/image.h"

namespace rondo {

/// The picture as a PNG file's bytes. Each text becomes an iTXt chunk (UTF-8, not compressed).
std::vector<std::byte> encode_png(const Image& image, const std::map<std::string, std::string>& texts);

/// The text chunks of a PNG file. Throws FileError when it is none; stops at limits that no file of ours reaches.
std::map<std::string, std::string> read_png_texts(const std::filesystem::path& path);

/// The picture itself, converted to 8-bit RGB (alpha is dropped).
Image read_png(const std::filesystem::path& path);

}  // namespace rondo
