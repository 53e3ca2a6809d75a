// How a caller wants its attention kernel chosen.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "rondo/attention.h"

namespace rondo {

struct AttentionRequest {
  /// A kernel's name, or empty.
  std::string backend;
  AttentionOptMode mode = AttentionOptMode::runtime;
  /// Nothing: as RONDO_TUNE says.
  std::optional<TuneMode> tune;
};

/// "off", "cached" or "on". Throws InvalidArgument, naming `source`.
TuneMode parse_tune_mode(std::string_view text, std::string_view source);

/// " backend=flash tune=on": what is not the default.
std::string to_string(const AttentionRequest& request);

}  // namespace rondo
