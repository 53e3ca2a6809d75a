#include "attention/kv_cache_policy.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {

bool KvCachePolicy::skips_layer(int layer) const {
  return std::binary_search(skip_layers.begin(), skip_layers.end(), layer);
}

void KvCachePolicy::check_layers(std::int64_t layers) const {
  if (skip_layers.empty() || skip_layers.back() < layers) return;
  throw InvalidArgument(fmt::format("kv-cache-skip-layers: {} is given; the transformer has layers 0 to {}",
                                    skip_layers.back(), layers - 1));
}

std::string KvCachePolicy::to_string() const {
  if (!fallback_reason.empty()) return fmt::format("native: {}", fallback_reason);
  if (!active()) return "native";
  std::string text(kv_cache_dtype_name(quantization.dtype));
  if (quantization.rotates) text += " rotated";
  if (quantization.smooths) text += " smoothed";
  if (!skip_layers.empty()) text += fmt::format(", native in layers {}", selector_text(skip_layers));
  if (!skip_steps.empty()) text += fmt::format(", native at steps {}", selector_text(skip_steps));
  return text;
}

}  // namespace rondo
