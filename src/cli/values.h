// Values on the command line, with errors in our words.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
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

}  // namespace rondo::cli
