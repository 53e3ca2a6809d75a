// Checks and small helpers on text that comes from outside.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

/// True when `text` is well-formed UTF-8 (no overlong forms, no surrogates).
bool is_valid_utf8(std::string_view text);

struct Utf8Character {
  std::int32_t code = 0;
  std::size_t bytes = 0;
};

/// The character at the start of valid text that is not empty.
Utf8Character first_character(std::string_view text);

/// Unicode's White_Space property.
bool is_whitespace(std::int32_t code);

/// `text` made fit for one line of an error message: invalid bytes and control characters escaped, shortened to about
/// `limit` bytes.
std::string printable(std::string_view text, std::size_t limit = 120);

/// The parts between commas that are not empty.
std::vector<std::string> split_list(const std::string& text);

/// "0-2,4" -> {0, 1, 2, 4}: sorted, each once; blank for none. Throws InvalidArgument, starting with `source` and
/// naming the part, for anything that is no whole number from 0 to 9999 or no rising range.
std::vector<int> parse_selector(const std::string& text, std::string_view source);
/// The inverse of sorted numbers: "0-2,4,5".
std::string selector_text(std::span<const int> numbers);

/// "1.5GB", "500 MB", "4096" -> bytes (powers of ten; MiB, GiB and TiB of two). Throws InvalidArgument, starting with
/// `source`, for anything else and for 0.
std::uint64_t parse_bytes(const std::string& text, std::string_view source);

/// A count with three digits and the prefix that people read: "65.2 TFLOP", "1.5 MB", "0 B" (powers of ten).
std::string human_count(double value, std::string_view unit);
std::string human_bytes(std::uint64_t bytes);

}  // namespace rondo
