// Which attention layers run on quantised operands, and at which steps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/attention_quantization.h"

namespace rondo {

/// Attention runs native at a step that `skip_steps` names or in a layer that `skip_layers` names; both count from 0,
/// steps over the whole request, layers over one transformer; both are sorted.
struct KvCachePolicy {
  AttentionQuantization quantization;
  /// Nobody asked for smoothed keys: where no kernel smooths, they stay as they are.
  bool may_leave_smoothing = false;
  std::vector<int> skip_steps;
  std::vector<int> skip_layers;
  /// What the device or the model cannot do runs native, with a warning, in place of being refused.
  bool falls_back = false;
  /// Why it fell back; empty for most.
  std::string fallback_reason = {};

  bool active() const { return quantization.active(); }
  bool skips_layer(int layer) const;
  /// Throws InvalidArgument where skip_layers names a layer that a transformer of so many does not have.
  void check_layers(std::int64_t layers) const;
  /// "int8 rotated, native in layers 0,7 and at steps 0,1": part of a plan's key.
  std::string to_string() const;
};

}  // namespace rondo
