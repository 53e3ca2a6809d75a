#include "backends/cpu/simd_softmax.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_softmax.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

using Full = hn::ScalableTag<float>;

float SoftmaxRowToBf16(float* scores, float scale, std::int64_t visible, std::int64_t keys, std::uint16_t* weights) {
  const Full d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float lowest = -std::numeric_limits<float>::infinity();
  auto most = hn::Set(d, lowest);
  std::int64_t i = 0;
  float tail_most = lowest;
  const auto exponent = [&](auto tag, std::int64_t at)
                            HWY_ATTR { return hn::Mul(hn::LoadU(tag, scores + at), hn::Set(tag, scale)); };
  const hn::CappedTag<float, 1> one;
  for (; i + lanes <= visible; i += lanes) {
    const auto value = exponent(d, i);
    hn::StoreU(value, d, scores + i);
    most = hn::Max(most, value);
  }
  for (; i < visible; ++i) {
    scores[i] = hn::GetLane(exponent(one, i));
    tail_most = std::max(tail_most, scores[i]);
  }
  const float center = std::max(tail_most, hn::GetLane(hn::MaxOfLanes(d, most)));
  if (center == lowest) {
    std::fill(weights, weights + keys, std::uint16_t{0});
    return 0.0F;
  }
  auto sum = hn::Zero(d);
  for (i = 0; i + lanes <= visible; i += lanes) {
    const auto weight = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, center)));
    sum = hn::Add(sum, weight);
    store_float(d, weight, weights + i);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < visible; ++i) {
    const auto weight = hn::Exp(one, hn::Set(one, scores[i] - center));
    total += hn::GetLane(weight);
    store_float(one, weight, weights + i);
  }
  std::fill(weights + visible, weights + keys, std::uint16_t{0});
  return total;
}

void ScaleRowToBf16(const float* source, float factor, std::int64_t width, std::uint16_t* target) {
  for_lanes(width, [&](auto d, std::int64_t i)
                       HWY_ATTR { store_float(d, hn::Mul(hn::LoadU(d, source + i), hn::Set(d, factor)), target + i); });
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(SoftmaxRowToBf16);
HWY_EXPORT(ScaleRowToBf16);

float softmax_row_to_bf16(float* scores, float scale, std::int64_t visible, std::int64_t keys, std::uint16_t* weights) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxRowToBf16)(scores, scale, visible, keys, weights);
}

void scale_row_to_bf16(const float* source, float factor, std::int64_t width, std::uint16_t* target) {
  HWY_DYNAMIC_DISPATCH(ScaleRowToBf16)(source, factor, width, target);
}

}  // namespace rondo::cpu
#endif  // HWY_ONCE
