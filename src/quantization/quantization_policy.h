// Which linear layers of a model are quantised, and how: what a caller asks for, or what a checkpoint says of itself.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quantization/linear_quantization.h"

namespace rondo {

/// Layers whose names match `pattern` (a glob: * ? [..]) are quantised in `format`, or left as they are without one.
struct QuantizationRule {
  std::string pattern;
  std::optional<LinearFormat> format;
};

/// Left as they are unless a rule says otherwise: modulations, embeddings and the output are a small part of the time
/// and decide about every token.
const std::vector<std::string>& default_quantization_exclusions();

struct QuantizationPolicy {
  /// What every layer gets that nothing below names; unset: nothing.
  std::optional<LinearFormat> format;
  std::vector<std::string> exclude = default_quantization_exclusions();
  std::vector<QuantizationRule> rules;  // stronger than `exclude`; the last that matches wins
  std::int64_t group = 64;              // of w4a16
  bool rotate = false;                  // Hadamard matrices
  std::vector<int> skip_steps;          // sorted
  /// Whether layers that are stored quantised run so; false where the caller names a format, or none.
  bool keeps_stored = true;
  /// Those layers, by name: nothing but skip_steps is read for them.
  std::map<std::string, LinearQuantization> layers = {};

  bool active() const { return format.has_value() || !rules.empty() || !layers.empty(); }
  std::string to_string() const;
};

/// What becomes of one layer: a quantisation, or the reason why there is none.
struct LayerDecision {
  std::optional<LinearQuantization> quantization;
  std::string reason;
};

/// `layer` is the weight's name without ".weight"; `inputs` its columns.
LayerDecision decide_layer(const QuantizationPolicy& policy, const std::string& layer, std::int64_t inputs);

/// The layer that a weight belongs to.
std::string layer_of_weight(const std::string& weight);

}  // namespace rondo
