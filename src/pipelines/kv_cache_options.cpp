#include "pipelines/kv_cache_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr const char* kConfig = "kv_cache_config";

/// A selector as text, from text or a list of whole numbers.
std::optional<std::string> stored_selector(const JsonConfig& config, const char* key) {
  if (!config.has(key)) return std::nullopt;
  const nlohmann::json& stored = config.object().at(key);
  if (!stored.is_array()) return config.text(key, std::nullopt);
  std::vector<std::uint64_t> numbers;
  for (const nlohmann::json& number : stored) {
    if (!number.is_number_unsigned()) config.refuse(key, "allowed are text and lists of whole numbers");
    numbers.push_back(number.get<std::uint64_t>());
  }
  return fmt::format("{}", fmt::join(numbers, ","));
}

/// Runs `read`; what it refuses is the file's fault.
template <class Read>
auto reading(const JsonConfig& config, const Read& read) {
  try {
    return read();
  } catch (const InvalidArgument& error) {
    throw FileError(fmt::format("{}: {}", config.source(), error.what()));
  }
}

}  // namespace

KvCacheOptions stored_kv_cache_options(const JsonConfig& transformer, std::int64_t layers) {
  if (!transformer.has(kConfig)) return {};
  const nlohmann::json& stored = transformer.object().at(kConfig);
  if (!stored.is_object()) transformer.refuse(kConfig, "allowed is an object");
  const JsonConfig config(stored, fmt::format("{}: {}", transformer.source(), kConfig));
  constexpr std::array kKnown{"kv_cache_dtype", "kv_cache_skip_steps", "kv_cache_skip_layers", "rotation", "smooth_k"};
  for (const auto& [key, value] : config.object().items()) {
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end())
      config.refuse(key, fmt::format("known keys are {}", fmt::join(kKnown, ", ")));
  }
  KvCacheOptions options;
  options.dtype =
      reading(config, [&] { return parse_kv_cache_dtype(config.text("kv_cache_dtype", "auto"), "kv_cache_dtype"); });
  options.skip_steps = stored_selector(config, "kv_cache_skip_steps");
  options.skip_layers = stored_selector(config, "kv_cache_skip_layers");
  const std::string rotation = config.text("rotation", "hadamard");
  if (rotation != "hadamard" && rotation != "none") config.refuse("rotation", "allowed are hadamard and none");
  options.rotate = rotation == "hadamard";
  if (config.has("smooth_k")) options.smooth_k = config.boolean("smooth_k", false);
  reading(config, [&] { kv_cache_policy(options).check_layers(layers); });
  return options;
}

KvCacheOptions layered(const KvCacheOptions& narrow, const KvCacheOptions& wide) {
  KvCacheOptions both = narrow;
  if (!both.dtype) both.dtype = wide.dtype;
  if (!both.skip_steps) both.skip_steps = wide.skip_steps;
  if (!both.skip_layers) both.skip_layers = wide.skip_layers;
  if (!both.rotate) both.rotate = wide.rotate;
  if (!both.smooth_k) both.smooth_k = wide.smooth_k;
  if (!both.fall_back_to_native) both.fall_back_to_native = wide.fall_back_to_native;
  return both;
}

void refuse_without_dtype(const KvCacheOptions& options, const KvCacheOptions& wide) {
  if (layered(options, wide).dtype.value_or(KvCacheDtype::automatic) != KvCacheDtype::automatic) return;
  const auto refuse = [](const char* name) {
    throw InvalidArgument(
        fmt::format("{}: is given, but nothing is quantised; kv-cache-dtype int8 or fp8 is missing", name));
  };
  if (options.skip_steps) refuse("kv-cache-skip-steps");
  if (options.skip_layers) refuse("kv-cache-skip-layers");
  if (options.rotate) refuse("quantize-attention-rotation");
  if (options.smooth_k) refuse("quantize-attention-smooth-k");
}

KvCachePolicy kv_cache_policy(const KvCacheOptions& options) {
  KvCachePolicy policy;
  policy.quantization = attention_quantization(options.dtype.value_or(KvCacheDtype::automatic),
                                               options.rotate.value_or(true), options.smooth_k);
  policy.may_leave_smoothing = !options.smooth_k.has_value();
  policy.skip_steps = parse_selector(options.skip_steps.value_or(""), "kv-cache-skip-steps");
  policy.skip_layers = parse_selector(options.skip_layers.value_or(""), "kv-cache-skip-layers");
  policy.falls_back = options.fall_back_to_native.value_or(false);
  return policy;
}

std::string to_text(const KvCacheOptions& options) {
  const auto number = [](const auto& value) { return value ? static_cast<int>(*value) : -1; };
  return fmt::format("dtype {} steps {} layers {} rotate {} smooth {} fallback {}", number(options.dtype),
                     options.skip_steps.value_or("-"), options.skip_layers.value_or("-"), number(options.rotate),
                     number(options.smooth_k), number(options.fall_back_to_native));
}

}  // namespace rondo
