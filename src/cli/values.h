// Values on the command line, with errors in our words.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rondo::cli {

/// A wrong call: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Whole numbers and decimals; `flag` names the value in errors. Throws UsageError.
std::int64_t parse_integer(const std::string& flag, const std::string& text);
std::uint64_t parse_unsigned(const std::string& flag, const std::string& text);
double parse_number(const std::string& flag, const std::string& text);

/// Which of `allowed` the text is. Throws UsageError.
std::size_t one_of(const std::string& flag, const std::string& text, std::initializer_list<std::string_view> allowed);

/// A whole number from `least` to `most`, or `absent` when the flag is not given. Throws UsageError.
std::int64_t bounded(const std::string& flag, const std::optional<std::string>& text, std::int64_t absent,
                     std::int64_t least, std::int64_t most);

/// "WIDTHxHEIGHT". Throws UsageError.
std::pair<std::int64_t, std::int64_t> parse_size(const std::string& flag, const std::string& text);

/// "DOUBLE,SINGLE" blocks, of --layers. Throws UsageError.
std::pair<std::int64_t, std::int64_t> parse_layers(const std::string& text);

}  // namespace rondo::cli
