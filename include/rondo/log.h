// The library is silent unless a sink is set.
#pragma once

#include <functional>
#include <string_view>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

enum class LogLevel { debug, info, warning, error, off };

using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Messages of `level` and above go to `sink`, from any thread, one call at a time. Without a sink nothing is logged.
void set_log_sink(LogLevel level, LogSink sink);

}  // namespace RONDO_PUBLIC
