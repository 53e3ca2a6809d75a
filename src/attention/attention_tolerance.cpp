#include "attention/attention_tolerance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace rondo {
namespace {

std::string compare_lse(const Tensor& actual, const Tensor& expected, double tolerance) {
  for (std::int64_t i = 0; i < expected.elements(); ++i) {
    const double x = actual.as<float>()[i];
    const double y = expected.as<float>()[i];
    const bool same = x == y || (std::isnan(x) && std::isnan(y));
    if (!same && !(std::fabs(x - y) <= tolerance * std::max(1.0, std::fabs(y))))
      return fmt::format("lse {} is {}, expected {}", i, x, y);
  }
  return "";
}

}  // namespace

AttentionTolerance attention_tolerance(DType dtype, KvCacheDtype kv_cache, bool rounds_weights, double largest_score) {
  AttentionTolerance tolerance{1e-5, 1e-4, 2e-5};
  if (dtype == DType::f16) tolerance = {6e-4, 6e-3, 2e-5};
  if (dtype == DType::bf16) tolerance = {4.5e-3, 4.5e-2, 2e-5};
  if (rounds_weights) tolerance = {1.2e-2, 1.2e-1, 2e-4};
  if (kv_cache == KvCacheDtype::int8) tolerance = {1.2e-2, 6e-2, 2e-4};
  if (kv_cache == KvCacheDtype::fp8)
    tolerance =
        rounds_weights ? AttentionTolerance{6e-2, 1.6e-1, 2e-4, 1e-2} : AttentionTolerance{4e-2, 1.2e-1, 2e-4, 1e-2};
  const double growth = std::max(1.0, largest_score / 100);
  return {tolerance.usual * growth, tolerance.most * growth, tolerance.lse * growth, tolerance.share_beyond_usual};
}

AttentionDifference compare_attention(const AttentionResult& actual, const AttentionResult& expected,
                                      AttentionTolerance tolerance) {
  AttentionDifference difference;
  if (actual.output.shape() != expected.output.shape() || actual.output.dtype() != expected.output.dtype()) {
    difference.failure = "shape or dtype differs";
    return difference;
  }
  const Tensor a = actual.output.to_float32();
  const Tensor e = expected.output.to_float32();
  const std::int64_t width = std::max<std::int64_t>(1, e.shape().back());
  if (expected.lse.defined() && actual.lse.defined())
    difference.failure = compare_lse(actual.lse.to_float32(), expected.lse.to_float32(), tolerance.lse);
  constexpr std::int64_t kTellingWidth = 24;
  std::int64_t beyond = 0;
  for (std::int64_t first = 0; first < e.elements(); first += width) {
    double scale = width < kTellingWidth ? 1.0 : 0.1;
    for (std::int64_t i = first; i < first + width; ++i) {
      if (std::isfinite(e.as<float>()[i])) scale = std::max<double>(scale, std::fabs(e.as<float>()[i]));
    }
    for (std::int64_t i = first; i < first + width; ++i) {
      const double x = a.as<float>()[i];
      const double y = e.as<float>()[i];
      if (x == y || (std::isnan(x) && std::isnan(y))) continue;
      const double error = std::fabs(x - y) / scale;
      if (!(error <= tolerance.most) && difference.failure.empty())
        difference.failure = fmt::format("row {}, column {} is {}, expected {}", first / width, i - first, x, y);
      if (!(error <= difference.worst)) difference.worst = error;
      beyond += error > tolerance.usual ? 1 : 0;
    }
  }
  // Of a few elements one may be the thousandth.
  const double allowed = tolerance.share_beyond_usual * static_cast<double>(e.elements()) + 1;
  if (difference.failure.empty() && static_cast<double>(beyond) > allowed) {
    difference.failure = fmt::format("{} of {} elements are off by more than {:.1e} of their row's scale", beyond,
                                     e.elements(), tolerance.usual);
  }
  return difference;
}

}  // namespace rondo
