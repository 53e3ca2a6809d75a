// Writing results so that a reader never sees half a file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace rondo {

/// Checks, before any work, that a result can go to `path`: its folder exists and is writable, and what lies there is
/// no folder. "-" means stdout and always passes. Throws FileError.
void check_output(const std::string& path);

/// Writes `bytes` to `path`. A new or regular file is written under a temporary name in the same folder and renamed;
/// anything else (device, FIFO, "-" for stdout) is written directly. Throws FileError, leaving nothing behind.
void write_output(const std::string& path, std::span<const std::byte> bytes);
void write_output(const std::string& path, std::string_view text);

}  // namespace rondo
