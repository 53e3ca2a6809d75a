// What passes know of where their graph will run and of what its caller asks for. A pass asks nobody else.
#pragma once

#include <optional>

#include "attention/attention_request.h"
#include "attention/kv_cache_policy.h"
#include "core/cpu_level.h"
#include "parallel/token_layout.h"
#include "quantization/quantization_policy.h"
#include "rondo/device.h"

namespace rondo {

struct PassContext {
  /// Where the plan runs.
  Device device = {};
  /// The CPU's instruction set, of a plan for the CPU; unset for a device, whose host's CPU says nothing about it.
  std::optional<CpuLevel> cpu_level = std::nullopt;
  /// Threads of one run, on the CPU.
  int threads = 1;
  /// How every attention node's kernel is chosen.
  AttentionRequest attention = {};
  /// Which attention is quantised.
  KvCachePolicy kv_cache = {};
  /// Over which ranks tokens are split.
  SequenceParallel parallel = {};
  /// Which linears are quantised.
  QuantizationPolicy quantization = {};

  /// True for a plan for a CPU below this level.
  bool is_cpu_below(CpuLevel level) const { return cpu_level && *cpu_level < level; }
};

}  // namespace rondo
