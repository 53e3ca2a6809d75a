// Checks and small helpers on text that comes from outside.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rondo {

/// True when `text` is well-formed UTF-8 (no overlong forms, no surrogates).
bool is_valid_utf8(std::string_view text);

/// `text` made fit for one line of an error message: invalid bytes and control characters escaped, shortened to about
/// `limit` bytes.
std::string printable(std::string_view text, std::size_t limit = 120);

/// "1.5 MB" (powers of ten)
std::string human_bytes(std::uint64_t bytes);

}  // namespace rondo
