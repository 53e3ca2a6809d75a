// A run's timeline for Perfetto and chrome://tracing.
#pragma once

#include <string>

#include "rondo/text_to_image.h"

namespace rondo::cli {

/// The Trace Event Format: a row for each lane's operators.
std::string trace_to_json(const RunReport& report);

}  // namespace rondo::cli
