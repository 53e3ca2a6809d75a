// Every environment variable that Rondo reads, in one table; `rondo env` prints it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace rondo {

struct EnvVariable {
  std::string_view name;
  std::string_view values;
  std::string_view meaning;
};

std::span<const EnvVariable> env_variables();

/// The value of a variable of the table; nothing when unset or empty.
std::optional<std::string> env_value(std::string_view name);

}  // namespace rondo
