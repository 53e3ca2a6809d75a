#include "core/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <utility>

#include "rondo/error.h"

namespace rondo {

bool is_valid_utf8(std::string_view text) {
  const auto* cursor = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t used = utf8proc_iterate(cursor, left, &code);
    if (used <= 0) return false;
    cursor += used;
    left -= used;
  }
  return true;
}

Utf8Character first_character(std::string_view text) {
  Utf8Character character;
  const auto used = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                     static_cast<utf8proc_ssize_t>(text.size()), &character.code);
  character.bytes = used > 0 ? static_cast<std::size_t>(used) : 1;
  return character;
}

bool is_whitespace(std::int32_t code) {
  if ((code >= 0x09 && code <= 0x0d) || code == 0x85) return true;
  const utf8proc_category_t category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

std::string printable(std::string_view text, std::size_t limit) {
  const bool valid = is_valid_utf8(text);
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool starts_character = (byte & 0xc0U) != 0x80U;
    if (result.size() >= limit && starts_character) return result + "...";
    if (byte < 0x20 || byte == 0x7f || (!valid && byte >= 0x80)) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += text[i];
    }
  }
  return result;
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

std::vector<int> parse_selector(const std::string& text, std::string_view source) {
  constexpr int kMost = 9999;
  std::vector<bool> named(kMost + 1);
  for (std::string part : split_list(text)) {
    const auto is_space = [](char c) { return c == ' ' || c == '\t'; };
    part.erase(part.begin(), std::find_if_not(part.begin(), part.end(), is_space));
    while (!part.empty() && is_space(part.back())) part.pop_back();
    if (part.empty()) continue;
    const auto refuse = [&] {
      return InvalidArgument(fmt::format(
          "{}: '{}' is given; allowed are whole numbers up to {} and ranges such as 0-2, with commas between", source,
          printable(part), kMost));
    };
    const auto number = [&](std::string_view digits) {
      int value = 0;
      const char* end = digits.data() + digits.size();
      const auto [stop, error] = std::from_chars(digits.data(), end, value);
      if (error != std::errc() || stop != end || value < 0 || value > kMost) throw refuse();
      return value;
    };
    const std::size_t dash = part.find('-');
    const int first = number(std::string_view(part).substr(0, dash));
    const int last = dash == std::string::npos ? first : number(std::string_view(part).substr(dash + 1));
    if (last < first) throw refuse();
    std::fill(named.begin() + first, named.begin() + last + 1, true);
  }
  std::vector<int> numbers;
  for (int i = 0; i <= kMost; ++i) {
    if (named[static_cast<std::size_t>(i)]) numbers.push_back(i);
  }
  return numbers;
}

std::string selector_text(std::span<const int> numbers) {
  std::string text;
  for (std::size_t first = 0; first < numbers.size();) {
    std::size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += text.empty() ? "" : ",";
    text += std::to_string(numbers[first]);
    if (last > first) text += fmt::format("{}{}", last == first + 1 ? "," : "-", numbers[last]);
    first = last + 1;
  }
  return text;
}

std::uint64_t parse_bytes(const std::string& text, std::string_view source) {
  constexpr std::array<std::pair<std::string_view, double>, 10> kUnits{{{"", 1},
                                                                        {"B", 1},
                                                                        {"kB", 1e3},
                                                                        {"KB", 1e3},
                                                                        {"MB", 1e6},
                                                                        {"GB", 1e9},
                                                                        {"TB", 1e12},
                                                                        {"MiB", 0x1p20},
                                                                        {"GiB", 0x1p30},
                                                                        {"TiB", 0x1p40}}};
  constexpr double kMost = 0x1p60;
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(stop, static_cast<std::size_t>(text.data() + text.size() - stop));
  if (unit.starts_with(' ')) unit.remove_prefix(1);
  const auto found = std::find_if(kUnits.begin(), kUnits.end(), [&](const auto& known) { return known.first == unit; });
  const bool valid = error == std::errc() && found != kUnits.end();
  const double bytes = valid ? value * found->second : 0;
  if (!(bytes >= 1 && bytes <= kMost))
    throw InvalidArgument(
        fmt::format("{}: '{}' is given; allowed are sizes such as 500MB or 8GB", source, printable(text)));
  return static_cast<std::uint64_t>(bytes);
}

std::string human_count(double value, std::string_view unit) {
  constexpr std::array kPrefixes{"", "k", "M", "G", "T", "P", "E"};
  std::size_t prefix = 0;
  while (value >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  return fmt::format("{} {}{}", value >= 999.5 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value),
                     kPrefixes[prefix], unit);
}

std::string human_bytes(std::uint64_t bytes) { return human_count(static_cast<double>(bytes), "B"); }

}  // namespace rondo
