#include "cli/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "core/text.h"

namespace rondo::cli {
namespace {

template <typename Number>
Number parse_whole(const std::string& flag, const std::string& text, const char* allowed) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) {
    throw UsageError(fmt::format("{}: '{}' is given; allowed is {}", flag, printable(text), allowed));
  }
  return value;
}

}  // namespace

std::int64_t parse_integer(const std::string& flag, const std::string& text) {
  return parse_whole<std::int64_t>(flag, text, "a whole number");
}

std::uint64_t parse_unsigned(const std::string& flag, const std::string& text) {
  return parse_whole<std::uint64_t>(flag, text, "a whole number from 0 to 18446744073709551615");
}

double parse_number(const std::string& flag, const std::string& text) {
  return parse_whole<double>(flag, text, "a number");
}

std::size_t one_of(const std::string& flag, const std::string& text, std::initializer_list<std::string_view> allowed) {
  const auto* found = std::find(allowed.begin(), allowed.end(), text);
  if (found == allowed.end()) {
    const auto* last = allowed.end() - 1;
    throw UsageError(fmt::format("{}: '{}' is given; allowed are {} and {}", flag, printable(text),
                                 fmt::join(allowed.begin(), last, ", "), *last));
  }
  return static_cast<std::size_t>(found - allowed.begin());
}

std::int64_t bounded(const std::string& flag, const std::optional<std::string>& text, std::int64_t absent,
                     std::int64_t least, std::int64_t most) {
  if (!text) return absent;
  const std::int64_t value = parse_integer(flag, *text);
  if (value < least || value > most)
    throw UsageError(fmt::format("{}: {} is given; allowed is {} to {}", flag, value, least, most));
  return value;
}

std::pair<std::int64_t, std::int64_t> parse_size(const std::string& flag, const std::string& text) {
  const std::size_t cross = text.find_first_of("xX");
  if (cross == std::string::npos)
    throw UsageError(fmt::format("{}: '{}' is given; allowed is WIDTHxHEIGHT such as 512x768", flag, printable(text)));
  return {parse_integer(flag, text.substr(0, cross)), parse_integer(flag, text.substr(cross + 1))};
}

std::pair<std::int64_t, std::int64_t> parse_layers(const std::string& text) {
  const std::vector<std::string> parts = split_list(text);
  if (parts.size() != 2)
    throw UsageError(fmt::format("--layers: '{}' is given; allowed is DOUBLE,SINGLE such as 1,2", printable(text)));
  return {bounded("--layers", parts[0], 0, 0, 1000), bounded("--layers", parts[1], 0, 0, 1000)};
}

}  // namespace rondo::cli
