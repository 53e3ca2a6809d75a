// How a caller wants its attention kernel chosen.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/attention_quantization.h"
#include "rondo/attention.h"

namespace rondo {

struct AttentionRequest {
  /// A kernel's name, or empty.
  std::string backend;
  AttentionOptMode mode = AttentionOptMode::runtime;
  /// Nothing: as RONDO_TUNE says.
  std::optional<TuneMode> tune = std::nullopt;
  /// How operands are quantised while it runs, and at which steps of a request they are not (sorted).
  AttentionQuantization quantization = {};
  std::vector<int> native_steps = {};
  /// The kernel that is named for operands as they are, where `backend` takes quantised ones only; else as `backend`.
  std::string native_backend = {};

  /// Who names `backend`, for errors.
  std::string backend_source = "the call";
  /// Whether RONDO_ATTENTION_BACKEND counts where `backend` is empty. A pipeline reads it once, for the part that it is
  /// meant for.
  bool reads_environment = true;

  bool operator==(const AttentionRequest&) const = default;
  /// The same on operands as they are.
  AttentionRequest native() const;
  /// The kernel that is named, by the caller or else by the environment, and by whom; empty: none.
  struct NamedBackend {
    std::string name;
    std::string source;
  };
  NamedBackend named_backend() const;
};

/// "off", "cached" or "on". Throws InvalidArgument, naming `source`.
TuneMode parse_tune_mode(std::string_view text, std::string_view source);

/// " backend=flash tune=on": what is not the default.
std::string to_string(const AttentionRequest& request);

}  // namespace rondo
