#include "backends/cpu/simd_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_rows.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

/// Calls body(T{}) with the element type that stands for `dtype`.
template <class Body>
HWY_INLINE void with_element(DType dtype, const Body& body) {
  if (dtype == DType::f32) {
    body(float{});
  } else {
    body(std::uint16_t{});
  }
}

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

/// Sum of (x - center)^2.
template <class T>
HWY_INLINE float square_sum_row(const T* x, float center, std::int64_t width) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto c = hn::Set(d, center);
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    const auto a = hn::Sub(load_float(d, x + i), c);
    const auto b = hn::Sub(load_float(d, x + i + lanes), c);
    s0 = hn::MulAdd(a, a, s0);
    s1 = hn::MulAdd(b, b, s1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
  for (; i < width; ++i) {
    const float a = load_one(x + i) - center;
    sum += a * a;
  }
  return sum;
}

void RmsNorm(DType dtype, const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      const float scale = 1.0F / std::sqrt(square_sum_row(in, 0.0F, rows.width) / static_cast<float>(rows.width) + eps);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        auto value = hn::Mul(load_float(d, in + i), hn::Set(d, scale));
        if (weight != nullptr) value = hn::Mul(value, hn::LoadU(d, weight + i));
        store_float(d, value, out + i);
      });
    }
  });
}

void LayerNorm(DType dtype, const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y,
               RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      const auto count = static_cast<float>(rows.width);
      const float mean = sum_row(in, rows.width) / count;
      const float scale = 1.0F / std::sqrt(square_sum_row(in, mean, rows.width) / count + eps);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        auto value = hn::Mul(hn::Sub(load_float(d, in + i), hn::Set(d, mean)), hn::Set(d, scale));
        if (weight != nullptr) value = hn::MulAdd(value, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i));
        store_float(d, value, out + i);
      });
    }
  });
}

void Modulate(DType dtype, const RowMap& x, const RowMap& scale, const RowMap& shift, std::int64_t rows_per_vector,
              const RowMap& y, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      const T* by = scale.row<const T>(r / rows_per_vector);
      const T* plus = shift.row<const T>(r / rows_per_vector);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto factor = hn::Add(load_float(d, by + i), hn::Set(d, 1.0F));
        store_float(d, hn::MulAdd(load_float(d, in + i), factor, load_float(d, plus + i)), out + i);
      });
    }
  });
}

void GatedAdd(DType dtype, const RowMap& residual, const RowMap& gate, const RowMap& x, std::int64_t rows_per_vector,
              const RowMap& y, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* base = residual.row<const T>(r);
      const T* by = gate.row<const T>(r / rows_per_vector);
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        store_float(d, hn::MulAdd(load_float(d, by + i), load_float(d, in + i), load_float(d, base + i)), out + i);
      });
    }
  });
}

/// x / (1 + exp(-z)); exp of a large argument is infinity and the quotient 0, as it should be.
template <class D, class V>
HWY_INLINE V times_sigmoid(D d, V x, V z) {
  const auto bounded = hn::Max(z, hn::Set(d, -88.0F));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0F), hn::Exp(d, hn::Neg(bounded))));
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
  }
  return x;
}

void Activation(DType dtype, ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i)
                                HWY_ATTR { store_float(d, activate(d, kind, load_float(d, in + i)), out + i); });
    }
  });
}

void Binary(DType dtype, BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y,
            RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* left = a.row<const T>(r);
      const T* right = b.row<const T>(r % period);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto u = load_float(d, left + i);
        const auto v = load_float(d, right + i);
        store_float(d, kind == BinaryKind::add ? hn::Add(u, v) : hn::Mul(u, v), out + i);
      });
    }
  });
}

void Cast(DType from, const RowMap& x, DType to, const RowMap& y, RowRange rows) {
  with_element(from, [&](auto source) HWY_ATTR {
    with_element(to, [&](auto target) HWY_ATTR {
      using S = decltype(source);
      using T = decltype(target);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        const S* in = x.row<const S>(r);
        T* out = y.row<T>(r);
        for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR { store_float(d, load_float(d, in + i), out + i); });
      }
    });
  });
}

void Rope(DType dtype, const RowMap& x, const float* cos, const float* sin, std::int64_t heads, std::int64_t positions,
          const RowMap& y, RowRange rows) {
  const std::int64_t half = rows.width / 2;
  // Each cosine twice, each sine twice with alternating sign: then a row is x * c + swap(x) * s in whole vectors.
  std::vector<float> c(static_cast<std::size_t>(rows.width));
  std::vector<float> s(static_cast<std::size_t>(rows.width));
  std::int64_t loaded = -1;
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    [[maybe_unused]] const hn::ScalableTag<float> d;
    [[maybe_unused]] const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const std::int64_t position = r / heads % positions;
      if (position != loaded) {
        for (std::int64_t i = 0; i < half; ++i) {
          c[2 * i] = c[2 * i + 1] = cos[position * half + i];
          s[2 * i] = -sin[position * half + i];
          s[2 * i + 1] = sin[position * half + i];
        }
        loaded = position;
      }
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no pairs of lanes to swap
      for (; i + lanes <= rows.width; i += lanes) {
        const auto value = load_float(d, in + i);
        const auto turned = hn::Mul(hn::Shuffle2301(value), hn::LoadU(d, s.data() + i));
        store_float(d, hn::MulAdd(value, hn::LoadU(d, c.data() + i), turned), out + i);
      }
#endif
      const hn::CappedTag<float, 1> one;
      for (; i < rows.width; i += 2) {
        const auto even = load_float(one, in + i);
        const auto odd = load_float(one, in + i + 1);
        const auto ci = hn::LoadU(one, c.data() + i);
        const auto si = hn::LoadU(one, s.data() + i + 1);
        store_float(one, hn::NegMulAdd(odd, si, hn::Mul(even, ci)), out + i);
        store_float(one, hn::MulAdd(even, si, hn::Mul(odd, ci)), out + i + 1);
      }
    }
  });
}

/// Rows are summed in float32 in blocks of 64, blocks in float64: a picture has a million rows.
template <class Term>
HWY_INLINE void add_channels(double* sums, RowRange rows, const Term& term) {
  constexpr std::int64_t kBlock = 64;
  std::vector<float> block(static_cast<std::size_t>(rows.width));
  for (std::int64_t first = rows.begin; first < rows.end; first += kBlock) {
    std::fill(block.begin(), block.end(), 0.0F);
    for (std::int64_t r = first; r < std::min(first + kBlock, rows.end); ++r) {
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        hn::StoreU(hn::Add(hn::LoadU(d, block.data() + i), term(d, r, i)), d, block.data() + i);
      });
    }
    for (std::int64_t i = 0; i < rows.width; ++i) sums[i] += static_cast<double>(block[i]);
  }
}

void ChannelSums(DType dtype, const RowMap& x, double* sums, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    add_channels(sums, rows,
                 [&](auto d, std::int64_t r, std::int64_t i) HWY_ATTR { return load_float(d, x.row<const T>(r) + i); });
  });
}

void ChannelSquareSums(DType dtype, const RowMap& x, const float* mean, double* sums, RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    add_channels(sums, rows, [&](auto d, std::int64_t r, std::int64_t i) HWY_ATTR {
      const auto off = hn::Sub(load_float(d, x.row<const T>(r) + i), hn::LoadU(d, mean + i));
      return hn::Mul(off, off);
    });
  });
}

void ChannelAffine(DType dtype, const RowMap& x, const float* scale, const float* shift, const RowMap& y,
                   RowRange rows) {
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        store_float(d, hn::MulAdd(load_float(d, in + i), hn::LoadU(d, scale + i), hn::LoadU(d, shift + i)), out + i);
      });
    }
  });
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(Modulate);
HWY_EXPORT(GatedAdd);
HWY_EXPORT(Activation);
HWY_EXPORT(Binary);
HWY_EXPORT(Cast);
HWY_EXPORT(Rope);
HWY_EXPORT(ChannelSums);
HWY_EXPORT(ChannelSquareSums);
HWY_EXPORT(ChannelAffine);

void rms_norm_rows(DType dtype, const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(dtype, x, weight, eps, y, rows);
}
void layer_norm_rows(DType dtype, const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y,
                     RowRange rows) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(dtype, x, weight, bias, eps, y, rows);
}
void modulate_rows(DType dtype, const RowMap& x, const RowMap& scale, const RowMap& shift, std::int64_t rows_per_vector,
                   const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Modulate)(dtype, x, scale, shift, rows_per_vector, y, rows);
}
void gated_add_rows(DType dtype, const RowMap& residual, const RowMap& gate, const RowMap& x,
                    std::int64_t rows_per_vector, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(GatedAdd)(dtype, residual, gate, x, rows_per_vector, y, rows);
}
void activation_rows(DType dtype, ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Activation)(dtype, kind, x, y, rows);
}
void binary_rows(DType dtype, BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y,
                 RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Binary)(dtype, kind, a, b, period, y, rows);
}
void cast_rows(DType from, const RowMap& x, DType to, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Cast)(from, x, to, y, rows);
}
void rope_rows(DType dtype, const RowMap& x, const float* cos, const float* sin, std::int64_t heads,
               std::int64_t positions, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Rope)(dtype, x, cos, sin, heads, positions, y, rows);
}
void channel_sums(DType dtype, const RowMap& x, double* sums, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(ChannelSums)(dtype, x, sums, rows);
}
void channel_square_sums(DType dtype, const RowMap& x, const float* mean, double* sums, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(ChannelSquareSums)(dtype, x, mean, sums, rows);
}
void channel_affine(DType dtype, const RowMap& x, const float* scale, const float* shift, const RowMap& y,
                    RowRange rows) {
  HWY_DYNAMIC_DISPATCH(ChannelAffine)(dtype, x, scale, shift, y, rows);
}

}  // namespace rondo::cpu
#endif  // HWY_ONCE
