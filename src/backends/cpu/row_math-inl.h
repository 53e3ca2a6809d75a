// Per-target arithmetic that row kernels share: sums along a row, activations. Included once a target.
#if defined(RONDO_BACKENDS_CPU_ROW_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RONDO_BACKENDS_CPU_ROW_MATH_INL_H_
#undef RONDO_BACKENDS_CPU_ROW_MATH_INL_H_
#else
#define RONDO_BACKENDS_CPU_ROW_MATH_INL_H_
#endif

#include "backends/cpu/simd-inl.h"
#include "rondo/operators.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

template <class T>
HWY_INLINE float load_one(const T* source) {
  return hn::GetLane(load_float(hn::CappedTag<float, 1>(), source));
}

/// Four accumulators hide the latency of the additions.
template <class T>
HWY_INLINE float sum_row(const T* x, std::int64_t width) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  auto s2 = hn::Zero(d);
  auto s3 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    s0 = hn::Add(s0, load_float(d, x + i));
    s1 = hn::Add(s1, load_float(d, x + i + lanes));
    s2 = hn::Add(s2, load_float(d, x + i + 2 * lanes));
    s3 = hn::Add(s3, load_float(d, x + i + 3 * lanes));
  }
  for (; i + lanes <= width; i += lanes) s0 = hn::Add(s0, load_float(d, x + i));
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < width; ++i) sum += load_one(x + i);
  return sum;
}

/// add(x - center, sum so far) for a row's elements, in two accumulators.
template <class T, class Add>
HWY_INLINE float centered_sum_row(const T* x, float center, std::int64_t width, const Add& add) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto c = hn::Set(d, center);
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    s0 = add(hn::Sub(load_float(d, x + i), c), s0);
    s1 = add(hn::Sub(load_float(d, x + i + lanes), c), s1);
  }
  auto rest = hn::Set(one, hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1))));
  for (; i < width; ++i) rest = add(hn::Sub(load_float(one, x + i), hn::Set(one, center)), rest);
  return hn::GetLane(rest);
}

/// Sum of (x - center)^2.
template <class T>
HWY_INLINE float square_sum_row(const T* x, float center, std::int64_t width) {
  return centered_sum_row(x, center, width, [](auto a, auto sum) HWY_ATTR { return hn::MulAdd(a, a, sum); });
}

/// How far the mean lies from `center`: of a row whose mean is large, the float32 sum is off by more than its
/// deviation.
template <class T>
HWY_INLINE float mean_offset_row(const T* x, float center, std::int64_t width) {
  const auto add = [](auto a, auto sum) HWY_ATTR { return hn::Add(a, sum); };
  return centered_sum_row(x, center, width, add) / static_cast<float>(width);
}

/// x / (1 + exp(-z)); 0 where exp(-z) would be infinite.
template <class D, class V>
HWY_INLINE V times_sigmoid(D d, V x, V z) {
  const auto least = hn::Set(d, -88.0F);
  const auto quotient = hn::Div(x, hn::Add(hn::Set(d, 1.0F), hn::Exp(d, hn::Neg(hn::Max(z, least)))));
  return hn::IfThenZeroElse(hn::Lt(z, least), quotient);
}

/// Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7.
template <class D, class V>
HWY_INLINE V erf(D d, V x) {
  const auto magnitude = hn::Abs(x);
  const auto t = hn::Div(hn::Set(d, 1.0F), hn::MulAdd(hn::Set(d, 0.3275911F), magnitude, hn::Set(d, 1.0F)));
  auto poly = hn::MulAdd(hn::Set(d, 1.061405429F), t, hn::Set(d, -1.453152027F));
  poly = hn::MulAdd(poly, t, hn::Set(d, 1.421413741F));
  poly = hn::MulAdd(poly, t, hn::Set(d, -0.284496736F));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.254829592F));
  const auto bounded = hn::Min(magnitude, hn::Set(d, 9.0F));
  const auto tail = hn::Exp(d, hn::Neg(hn::Mul(bounded, bounded)));
  return hn::CopySign(hn::NegMulAdd(hn::Mul(poly, t), tail, hn::Set(d, 1.0F)), x);
}

template <class D, class V>
HWY_INLINE V activate(D d, ActivationKind kind, V x) {
  switch (kind) {
    case ActivationKind::gelu_tanh: {
      // 0.5 (1 + tanh u) = sigmoid(2u)
      const auto cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715F), hn::Mul(x, x)), x, x);
      return times_sigmoid(d, x, hn::Mul(hn::Set(d, 1.5957691216F), cubic));
    }
    case ActivationKind::gelu_erf: {
      const auto half = hn::Mul(x, hn::Set(d, 0.5F));
      return hn::MulAdd(half, erf(d, hn::Mul(x, hn::Set(d, 0.70710678F))), half);
    }
    case ActivationKind::quick_gelu: return times_sigmoid(d, x, hn::Mul(hn::Set(d, 1.702F), x));
    case ActivationKind::silu: return times_sigmoid(d, x, x);
    case ActivationKind::mish: {
      // With n = exp(x), tanh(log(1 + n)) = n (n + 2) / (n (n + 2) + 2); from 40 on it is 1.
      const auto n = hn::Exp(d, hn::Min(x, hn::Set(d, 40.0F)));
      const auto product = hn::Mul(n, hn::Add(n, hn::Set(d, 2.0F)));
      return hn::Mul(x, hn::Div(product, hn::Add(product, hn::Set(d, 2.0F))));
    }
    case ActivationKind::relu: return hn::Max(hn::Zero(d), x);  // in this order x86 keeps a NaN
  }
  return x;
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
