#include "backends/cpu/simd_attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_attention.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/simd-inl.h"

#ifndef RONDO_BACKENDS_CPU_SIMD_ATTENTION_ONCE
#define RONDO_BACKENDS_CPU_SIMD_ATTENTION_ONCE
namespace rondo::cpu {

// Budget of a block at head dim 128: scores 48 x 256 floats = 48 KiB and packed K and V blocks of 128 KiB each stay in
// a 512 KiB level-2 cache. A micro-kernel keeps 6 rows x 2 vectors of sums in registers: 12 fused multiply-adds hide
// the latency of 4 on two ports, and AVX2's 16 registers hold them.
constexpr std::int64_t kQueryBlock = 48;
constexpr std::int64_t kKeyBlock = 256;
constexpr std::int64_t kMaxLanes = 16;
constexpr int kRows = 6;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Where each part of a thread's scratch begins. Rows are padded for the widest vectors, whatever the level in use.
struct FlashScratch {
  FlashScratch(float* base, std::int64_t keys, std::int64_t head_dim, std::int64_t value_dim)
      : value_stride(round_up(value_dim, 2 * kMaxLanes)) {
    const auto take = [&base](std::int64_t count) {
      float* part = base;
      if (base != nullptr) base += round_up(count, kMaxLanes);
      return part;
    };
    keys_packed = take(round_up(keys, 2 * kMaxLanes) * head_dim);
    values_packed = take(keys * value_stride);
    queries = take(kQueryBlock * head_dim);
    scores = take(kQueryBlock * kKeyBlock);
    sums = take(kQueryBlock * value_stride);
    row_max = take(kQueryBlock);
    row_sum = take(kQueryBlock);
    rescale = take(kQueryBlock);
  }
  std::int64_t value_stride;
  float* keys_packed;    // panels of two vectors of keys: [panel][head_dim][2 * lanes]
  float* values_packed;  // [keys][value_stride]
  float* queries;        // [kQueryBlock][head_dim], scaled
  float* scores;         // [kQueryBlock][kKeyBlock]
  float* sums;           // [kQueryBlock][value_stride]
  float* row_max;
  float* row_sum;
  float* rescale;
};

}  // namespace rondo::cpu
#endif  // RONDO_BACKENDS_CPU_SIMD_ATTENTION_ONCE

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

using Full = hn::ScalableTag<float>;

template <class T>
const T* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t position, std::int64_t head) {
  const Shape& s = tensor.strides();
  return tensor.as<T>() + batch * s[0] + position * s[1] + head * s[2];
}

template <class T>
void pack_row(const T* source, std::int64_t width, float factor, float* target) {
  for_lanes(width, [&](auto d, std::int64_t i)
                       HWY_ATTR { hn::StoreU(hn::Mul(load_float(d, source + i), hn::Set(d, factor)), d, target + i); });
}

template <class T>
void pack_keys_values(const FlashProblem& p, std::int64_t batch, std::int64_t head, const FlashScratch& s) {
  const std::int64_t keys = p.key.shape()[1];
  const std::int64_t head_dim = p.key.shape()[3];
  const std::int64_t value_dim = p.value.shape()[3];
  const auto panel = static_cast<std::int64_t>(2 * hn::Lanes(Full()));
  for (std::int64_t first = 0; first < keys; first += panel) {
    float* target = s.keys_packed + first * head_dim;
    for (std::int64_t j = 0; j < panel; ++j) {
      if (first + j >= keys) {
        for (std::int64_t d = 0; d < head_dim; ++d) target[d * panel + j] = 0;
        continue;
      }
      // Through a small dense row: the widening is vectorised, the scatter is not.
      float row[64];
      const T* source = row_of<T>(p.key, batch, first + j, head);
      for (std::int64_t d0 = 0; d0 < head_dim; d0 += 64) {
        const std::int64_t count = std::min<std::int64_t>(64, head_dim - d0);
        pack_row(source + d0, count, 1.0F, row);
        for (std::int64_t d = 0; d < count; ++d) target[(d0 + d) * panel + j] = row[d];
      }
    }
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    float* target = s.values_packed + j * s.value_stride;
    pack_row(row_of<T>(p.value, batch, j, head), value_dim, 1.0F, target);
    std::fill(target + value_dim, target + s.value_stride, 0.0F);
  }
}

/// scores[R][2 vectors] = queries[R] . one panel of keys
template <int R>
HWY_INLINE void score_panel(const float* queries, std::int64_t head_dim, const float* panel, float* scores) {
  const Full d;
  const std::size_t lanes = hn::Lanes(d);
  hn::Vec<Full> a0[R];
  hn::Vec<Full> a1[R];
  for (int r = 0; r < R; ++r) a0[r] = a1[r] = hn::Zero(d);
  for (std::int64_t i = 0; i < head_dim; ++i) {
    const auto k0 = hn::LoadU(d, panel);
    const auto k1 = hn::LoadU(d, panel + lanes);
    panel += 2 * lanes;
    for (int r = 0; r < R; ++r) {
      const auto q = hn::Set(d, queries[r * head_dim + i]);
      a0[r] = hn::MulAdd(q, k0, a0[r]);
      a1[r] = hn::MulAdd(q, k1, a1[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    hn::StoreU(a0[r], d, scores + r * kKeyBlock);
    hn::StoreU(a1[r], d, scores + r * kKeyBlock + lanes);
  }
}

/// sums[R][2 vectors] = sums * rescale + weights[R][keys] . values[keys][2 vectors]
template <int R>
HWY_INLINE void add_values(const float* weights, std::int64_t keys, const float* values, std::int64_t stride,
                           const float* rescale, float* sums) {
  const Full d;
  const std::size_t lanes = hn::Lanes(d);
  hn::Vec<Full> a0[R];
  hn::Vec<Full> a1[R];
  for (int r = 0; r < R; ++r) {
    const auto factor = hn::Set(d, rescale[r]);
    a0[r] = hn::Mul(hn::LoadU(d, sums + r * stride), factor);
    a1[r] = hn::Mul(hn::LoadU(d, sums + r * stride + lanes), factor);
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    const auto v0 = hn::LoadU(d, values + j * stride);
    const auto v1 = hn::LoadU(d, values + j * stride + lanes);
    for (int r = 0; r < R; ++r) {
      const auto w = hn::Set(d, weights[r * kKeyBlock + j]);
      a0[r] = hn::MulAdd(w, v0, a0[r]);
      a1[r] = hn::MulAdd(w, v1, a1[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    hn::StoreU(a0[r], d, sums + r * stride);
    hn::StoreU(a1[r], d, sums + r * stride + lanes);
  }
}

/// Calls kernel.template operator()<R>(first row) over `rows` rows in steps of kRows and a tail.
template <class Kernel>
HWY_INLINE void over_row_groups(std::int64_t rows, const Kernel& kernel) {
  std::int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) kernel(std::integral_constant<int, kRows>(), r);
  switch (rows - r) {
    case 5: kernel(std::integral_constant<int, 5>(), r); break;
    case 4: kernel(std::integral_constant<int, 4>(), r); break;
    case 3: kernel(std::integral_constant<int, 3>(), r); break;
    case 2: kernel(std::integral_constant<int, 2>(), r); break;
    case 1: kernel(std::integral_constant<int, 1>(), r); break;
    default: break;
  }
}

/// Turns one row of scores into weights exp(score - max) and updates the row's running max and sum. The first `valid`
/// of `keys` scores count. Returns the factor by which earlier sums shrink.
HWY_INLINE float softmax_row(float* scores, const float* bias, std::int64_t valid, std::int64_t keys, float& row_max,
                             float& row_sum) {
  const Full d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float lowest = -std::numeric_limits<float>::infinity();
  std::fill(scores + valid, scores + round_up(keys, lanes), lowest);
  if (bias != nullptr) {
    for_lanes(valid, [&](auto tag, std::int64_t i) HWY_ATTR {
      hn::StoreU(hn::Add(hn::LoadU(tag, scores + i), hn::LoadU(tag, bias + i)), tag, scores + i);
    });
  }
  auto most = hn::Set(d, row_max);
  for (std::int64_t i = 0; i < keys; i += lanes) most = hn::Max(most, hn::LoadU(d, scores + i));
  const float new_max = hn::GetLane(hn::MaxOfLanes(d, most));
  if (new_max == lowest) {  // nothing visible yet
    std::fill(scores, scores + keys, 0.0F);
    return 1.0F;
  }
  const auto center = hn::Set(d, new_max);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < keys; i += lanes) {
    const auto weight = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + i), center));
    hn::StoreU(weight, d, scores + i);
    sum = hn::Add(sum, weight);
  }
  const hn::CappedTag<float, 1> one;
  const float shrink = hn::GetLane(hn::Exp(one, hn::Set(one, row_max - new_max)));
  row_sum = row_sum * shrink + hn::GetLane(hn::SumOfLanes(d, sum));
  row_max = new_max;
  return shrink;
}

template <class T>
void FlashRowsOf(const FlashProblem& p, std::int64_t batch, std::int64_t head, std::int64_t begin, std::int64_t end,
                 float* memory) {
  const Full d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t keys = p.key.shape()[1];
  const std::int64_t head_dim = p.query.shape()[3];
  const std::int64_t value_dim = p.value.shape()[3];
  const std::int64_t shift = keys - p.query.shape()[1];  // causal: query i sees keys up to i + shift
  const FlashScratch s(memory, keys, head_dim, value_dim);
  pack_keys_values<T>(p, batch, head / (p.query.shape()[2] / p.key.shape()[2]), s);

  for (std::int64_t q0 = begin; q0 < end; q0 += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, end - q0);
    for (std::int64_t r = 0; r < rows; ++r) {
      pack_row(row_of<T>(p.query, batch, q0 + r, head), head_dim, p.scale, s.queries + r * head_dim);
    }
    std::fill_n(s.sums, rows * s.value_stride, 0.0F);
    std::fill_n(s.row_max, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(s.row_sum, rows, 0.0F);

    const std::int64_t visible = p.causal ? std::clamp<std::int64_t>(q0 + rows + shift, 0, keys) : keys;
    for (std::int64_t k0 = 0; k0 < visible; k0 += kKeyBlock) {
      const std::int64_t count = std::min(kKeyBlock, visible - k0);
      for (std::int64_t j = 0; j < count; j += 2 * lanes) {
        const float* panel = s.keys_packed + (k0 + j) * head_dim;
        over_row_groups(rows, [&](auto size, std::int64_t r) HWY_ATTR {
          score_panel<decltype(size)::value>(s.queries + r * head_dim, head_dim, panel, s.scores + r * kKeyBlock + j);
        });
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t valid = p.causal ? std::clamp<std::int64_t>(q0 + r + shift + 1 - k0, 0, count) : count;
        const float* bias = nullptr;
        if (p.bias.defined()) {
          const Shape& shape = p.bias.shape();
          const Shape& strides = p.bias.strides();
          bias = p.bias.as<float>() + (shape[0] == 1 ? 0 : batch * strides[0]) +
                 (shape[1] == 1 ? 0 : head * strides[1]) + (q0 + r) * strides[2] + k0;
        }
        s.rescale[r] = softmax_row(s.scores + r * kKeyBlock, bias, valid, count, s.row_max[r], s.row_sum[r]);
      }
      for (std::int64_t c = 0; c < value_dim; c += 2 * lanes) {
        over_row_groups(rows, [&](auto size, std::int64_t r) HWY_ATTR {
          add_values<decltype(size)::value>(s.scores + r * kKeyBlock, count, s.values_packed + k0 * s.value_stride + c,
                                            s.value_stride, s.rescale + r, s.sums + r * s.value_stride + c);
        });
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      T* target = const_cast<T*>(row_of<T>(p.output, batch, q0 + r, head));
      const float inverse = s.row_sum[r] > 0 ? 1.0F / s.row_sum[r] : 0.0F;
      for_lanes(value_dim, [&](auto tag, std::int64_t i) HWY_ATTR {
        store_float(tag, hn::Mul(hn::LoadU(tag, s.sums + r * s.value_stride + i), hn::Set(tag, inverse)), target + i);
      });
    }
  }
}

void FlashRows(const FlashProblem& p, std::int64_t batch, std::int64_t head, std::int64_t begin, std::int64_t end,
               float* scratch) {
  if (p.query.dtype() == DType::f32) {
    FlashRowsOf<float>(p, batch, head, begin, end, scratch);
  } else {
    FlashRowsOf<std::uint16_t>(p, batch, head, begin, end, scratch);
  }
}

float SoftmaxRowToBf16(float* scores, float scale, const float* bias, std::int64_t visible, std::int64_t keys,
                       std::uint16_t* weights) {
  const Full d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float lowest = -std::numeric_limits<float>::infinity();
  auto most = hn::Set(d, lowest);
  std::int64_t i = 0;
  float tail_most = lowest;
  const auto exponent = [&](auto tag, std::int64_t at) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(tag, scores + at), hn::Set(tag, scale));
    return bias == nullptr ? scaled : hn::Add(scaled, hn::LoadU(tag, bias + at));
  };
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

HWY_EXPORT(FlashRows);
HWY_EXPORT(SoftmaxRowToBf16);
HWY_EXPORT(ScaleRowToBf16);

std::size_t flash_scratch_bytes(std::int64_t keys, std::int64_t head_dim, std::int64_t value_dim) {
  const std::int64_t value_stride = round_up(value_dim, 2 * kMaxLanes);
  const std::int64_t floats = round_up(keys, 2 * kMaxLanes) * head_dim + keys * value_stride +
                              kQueryBlock * (head_dim + kKeyBlock + value_stride + 3) + 8 * kMaxLanes;
  return static_cast<std::size_t>(round_up(floats, kMaxLanes)) * sizeof(float);
}

void flash_attention_rows(const FlashProblem& problem, std::int64_t batch, std::int64_t head, std::int64_t begin,
                          std::int64_t end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(FlashRows)(problem, batch, head, begin, end, scratch);
}

float softmax_row_to_bf16(float* scores, float scale, const float* bias, std::int64_t visible, std::int64_t keys,
                          std::uint16_t* weights) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxRowToBf16)(scores, scale, bias, visible, keys, weights);
}

void scale_row_to_bf16(const float* source, float factor, std::int64_t width, std::uint16_t* target) {
  HWY_DYNAMIC_DISPATCH(ScaleRowToBf16)(source, factor, width, target);
}

}  // namespace rondo::cpu
#endif  // HWY_ONCE
