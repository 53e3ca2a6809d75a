// Logging inside the library.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "rondo/log.h"

namespace rondo {

bool log_enabled(LogLevel level);
void log_message(LogLevel level, std::string_view message);

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) log_message(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace rondo
