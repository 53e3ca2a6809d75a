#include "quantization/quantization_policy.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

namespace rondo {
namespace {

bool matches(const std::string& pattern, const std::string& layer) {
  return fnmatch(pattern.c_str(), layer.c_str(), 0) == 0;
}

/// The largest power of two, at most 128, that leaves whole vectors of 16 inputs; 0 for none. Each doubling costs a
/// pass over the row, and 128 spread an outlier far enough.
std::int64_t rotation_for(std::int64_t inputs) {
  constexpr std::int64_t kMost = 128;
  constexpr std::int64_t kVector = 16;
  std::int64_t parts = 1;
  while (parts < kMost && inputs % (2 * parts * kVector) == 0) parts *= 2;
  return parts > 1 ? parts : 0;
}

LayerDecision quantize_as(const QuantizationPolicy& policy, LinearFormat format, std::int64_t inputs) {
  LinearQuantization quantization;
  quantization.format = format;
  if (format == LinearFormat::w4a16) {
    quantization.weight_limit = 7;
    quantization.group = policy.group;
    if (inputs % policy.group != 0)
      return {std::nullopt, fmt::format("groups of {} do not divide its {} inputs", policy.group, inputs)};
  }
  if (policy.rotate) quantization.rotation = rotation_for(inputs);
  quantization.native_steps = policy.skip_steps;
  return {quantization, ""};
}

}  // namespace

const std::vector<std::string>& default_quantization_exclusions() {
  static const std::vector<std::string> patterns{"*norm*", "*embed*", "proj_out"};
  return patterns;
}

std::string QuantizationPolicy::to_string() const {
  if (!active()) return "none";
  std::string text = fmt::format("{} exclude={} group={} rotate={} skip={}", format ? linear_format_name(*format) : "-",
                                 fmt::join(exclude, ","), group, rotate, fmt::join(skip_steps, ","));
  for (const QuantizationRule& rule : rules)
    text += fmt::format(" {}={}", rule.pattern, rule.format ? linear_format_name(*rule.format) : "none");
  for (const auto& [layer, quantization] : layers) text += fmt::format(" {}:{}", layer, quantization.to_string());
  return text;
}

LayerDecision decide_layer(const QuantizationPolicy& policy, const std::string& layer, std::int64_t inputs) {
  LayerDecision decision;
  if (const auto stored = policy.layers.find(layer); stored != policy.layers.end()) {
    decision.quantization = stored->second;
    decision.quantization->native_steps = policy.skip_steps;
    return decision;
  }
  static const std::optional<LinearFormat> kNone;
  const std::optional<LinearFormat>* format = &policy.format;
  std::string reason = "no format is asked for";
  for (const std::string& pattern : policy.exclude) {
    if (!*format || !matches(pattern, layer)) continue;
    format = &kNone;
    reason = fmt::format("'{}' excludes it", pattern);
  }
  for (const QuantizationRule& rule : policy.rules) {
    if (!matches(rule.pattern, layer)) continue;
    format = &rule.format;
    reason = fmt::format("the rule for '{}' leaves it as it is", rule.pattern);
  }
  if (!*format) return {std::nullopt, reason};
  return quantize_as(policy, **format, inputs);
}

std::string layer_of_weight(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.ends_with(kSuffix) ? weight.substr(0, weight.size() - kSuffix.size()) : weight;
}

}  // namespace rondo
