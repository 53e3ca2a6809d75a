#include "backends/attention_backends.h"

#include <fmt/format.h>

#include "attention/reference_attention.h"
#include "backends/cpu/attention_kernels.h"
#include "core/env.h"
#include "rondo/error.h"

namespace rondo {

AttentionRegistry& attention_registry() {
  static AttentionRegistry registry;
  static const bool filled = [] {
    for (auto& kernel : cpu::attention_kernels()) registry.add(std::move(kernel));
    registry.add(reference_attention_kernel());
    return true;
  }();
  static_cast<void>(filled);
  return registry;
}

KvCachePolicy settle_kv_cache(KvCachePolicy policy, AttentionProblem layer, std::int64_t layers,
                              const std::string& backend) {
  if (!policy.active()) return policy;
  policy.check_layers(layers);
  layer.quantization = policy.quantization;
  std::vector<std::string> reasons;
  const std::string named = backend.empty() ? env_value("RONDO_ATTENTION_BACKEND").value_or("") : backend;
  for (const auto& kernel : attention_registry().kernels()) {
    const bool considered = named.empty() ? kernel->name() != "reference" && kernel->takes(policy.quantization.dtype)
                                          : kernel->name() == named;
    if (!considered) continue;
    const AttentionRefusal refusal = attention_registry().answer(*kernel, layer);
    if (!refusal) return policy;
    reasons.push_back(fmt::format("{} {}", kernel->name(), *refusal));
  }
  const std::string reason =
      fmt::format("{}: {}", kv_cache_dtype_name(policy.quantization.dtype), fmt::join(reasons, "; "));
  if (!policy.falls_back) {
    throw Unsupported(fmt::format("kv-cache-dtype: {}; allowed here is auto, or --kv-cache-fallback native", reason));
  }
  policy.quantization = {};
  policy.fallback_reason = reason;
  return policy;
}

AttentionTuner& attention_tuner() {
  static AttentionTuner tuner(attention_registry());
  return tuner;
}

}  // namespace rondo
