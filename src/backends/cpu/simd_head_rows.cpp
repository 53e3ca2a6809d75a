#include "backends/cpu/simd_head_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/quantization_limits.h"
#include "backends/cpu/flash_attention.h"
#include "quantization/linear_quantization.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_head_rows.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

using Full = hn::ScalableTag<float>;

#if HWY_HAVE_SCALABLE || HWY_TARGET == HWY_SCALAR
constexpr std::int64_t kWidest = 1;  // elements that are turned inside a vector
#else
constexpr std::int64_t kWidest = hn::MaxLanes(Full());

/// One stage of a Walsh-Hadamard transform inside vectors: lanes 2^kStage apart become their sum and difference.
template <int kStage, class D>
HWY_INLINE hn::Vec<D> butterfly(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto other = [&] {
    if constexpr (kStage == 0) {
      return hn::Shuffle2301(x);
    } else if constexpr (kStage == 1) {
      return hn::Shuffle1032(x);
    } else if constexpr (kStage == 2) {
      return hn::SwapAdjacentBlocks(x);
    } else {
      return hn::SwapAdjacentBlocks(hn::ReverseBlocks(d, x));
    }
  }();
  const auto upper = hn::And(hn::Iota(du, 0), hn::Set(du, 1U << kStage));
  return hn::Add(other, hn::Xor(x, hn::BitCast(d, hn::ShiftLeft<31 - kStage>(upper))));
}

/// turn_part() in vectors of `kLanes`, at most `part`.
template <int kLanes>
HWY_INLINE void turn_vectors(float* values, std::int64_t part, float norm) {
  const hn::CappedTag<float, kLanes> d;
  for (std::int64_t i = 0; i < part; i += kLanes) {
    auto x = hn::Mul(hn::LoadU(d, values + i), hn::Set(d, norm));
    x = butterfly<1>(d, butterfly<0>(d, x));
    if constexpr (kLanes > 4) x = butterfly<2>(d, x);
    if constexpr (kLanes > 8) x = butterfly<3>(d, x);
    hn::StoreU(x, d, values + i);
  }
  for (std::int64_t distance = kLanes; distance < part; distance *= 2) {
    for (std::int64_t i = 0; i < part; i += 2 * distance) {
      for (std::int64_t at = i; at < i + distance; at += kLanes) {
        const auto a = hn::LoadU(d, values + at);
        const auto b = hn::LoadU(d, values + at + distance);
        hn::StoreU(hn::Add(a, b), d, values + at);
        hn::StoreU(hn::Sub(a, b), d, values + at + distance);
      }
    }
  }
}
#endif

/// As rotate_head() of `part` elements, a power of two; signs are applied before.
void turn_part(float* values, std::int64_t part) {
  const float norm = 1.0F / std::sqrt(static_cast<float>(part));
  if constexpr (kWidest >= 16) {
    if (part >= 16) return turn_vectors<16>(values, part, norm);
  }
  if constexpr (kWidest >= 8) {
    if (part >= 8) return turn_vectors<8>(values, part, norm);
  }
  if constexpr (kWidest >= 4) {
    if (part >= 4) return turn_vectors<4>(values, part, norm);
  }
  for (std::int64_t i = 0; i < part; ++i) values[i] *= norm;
  for (std::int64_t distance = 1; distance < part; distance *= 2) {
    for (std::int64_t i = 0; i < part; ++i) {
      if ((i & distance) != 0) continue;
      const float a = values[i];
      values[i] = a + values[i + distance];
      values[i + distance] = a - values[i + distance];
    }
  }
}

template <class T>
const T* row_of(const HeadRows& h, std::int64_t index) {
  return static_cast<const T*>(h.rows) + index * h.stride;
}

/// Rows of a head lie far apart, which no hardware prefetcher follows.
constexpr std::int64_t kRowsAhead = 4;

template <class T>
void load_row(const HeadRows& h, std::int64_t index, float* target) {
  const T* source = row_of<T>(h, index);
  constexpr std::int64_t kLine = 64 / sizeof(T);
  for (std::int64_t i = 0; i < h.width; i += kLine) __builtin_prefetch(source + kRowsAhead * h.stride + i);
  for_lanes_twice(h.width, [&](auto d, std::int64_t i) HWY_ATTR {
    auto x = load_float(d, source + i);
    if (h.mean != nullptr) x = hn::Sub(x, hn::LoadU(d, h.mean + i));
    if (h.signs != nullptr) x = hn::Mul(x, hn::LoadU(d, h.signs + i));
    hn::StoreU(x, d, target + i);
  });
  if (h.signs == nullptr) return;
  for (std::int64_t first = 0; first < h.width;) {
    const auto part = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(h.width - first)));
    turn_part(target + first, part);
    first += part;
  }
}

/// The largest magnitude; NaN stands above infinity, infinity above all numbers.
HWY_INLINE float largest_magnitude(const float* values, std::int64_t count) {
  const hn::RebindToSigned<Full> di;
  auto most = hn::Zero(di);
  std::int32_t most_of_tail = 0;
  for_lanes_twice(count, [&](auto d, std::int64_t i) HWY_ATTR {
    const hn::RebindToSigned<decltype(d)> integers;
    const auto bits = hn::BitCast(integers, hn::Abs(hn::LoadU(d, values + i)));
    if constexpr (hn::MaxLanes(d) == hn::MaxLanes(Full()) && hn::MaxLanes(d) > 1) {
      most = hn::Max(most, bits);
    } else {
      most_of_tail = std::max(most_of_tail, hn::GetLane(bits));
    }
  });
  return std::bit_cast<float>(std::max(most_of_tail, hn::GetLane(hn::MaxOfLanes(di, most))));
}

/// What values are multiplied by, or 0 where none of them can be told.
float inverse_scale(float largest, float limit) {
  const bool has_scale = largest > kLeastMagnitude && largest <= std::numeric_limits<float>::max();
  return has_scale ? limit / largest : 0.0F;
}

void MeanOfRows(const HeadRows& h, std::int64_t count, float* mean) {
  float sums[kWidestQuantizedHead];
  std::fill_n(mean, h.width, 0.0F);
  with_element(h.dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t first = 0; first < count; first += kKeysOfBlock) {
      std::fill_n(sums, h.width, 0.0F);
      for (std::int64_t j = first; j < std::min(first + kKeysOfBlock, count); ++j) {
        const T* row = row_of<T>(h, j);
        for_lanes(h.width, [&](auto d, std::int64_t i) HWY_ATTR {
          hn::StoreU(hn::Add(hn::LoadU(d, sums + i), load_float(d, row + i)), d, sums + i);
        });
      }
      for (std::int64_t i = 0; i < h.width; ++i) mean[i] += sums[i];
    }
  });
  for (std::int64_t i = 0; i < h.width; ++i) mean[i] /= static_cast<float>(count);
}

void AddMeanScores(const HeadRows& h, std::int64_t count, const float* mean, float scale, float* lse,
                   std::int64_t lse_stride) {
  with_element(h.dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t j = 0; j < count; ++j) {
      const T* row = row_of<T>(h, j);
      double sum = 0;
      float products[16];
      for_lanes(h.width, [&](auto d, std::int64_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(load_float(d, row + i), hn::LoadU(d, mean + i)), d, products);
        for (std::size_t l = 0; l < hn::Lanes(d); ++l) sum += static_cast<double>(products[l]);
      });
      lse[j * lse_stride] += static_cast<float>(sum * static_cast<double>(scale));
    }
  });
}

void QuantizeInt8Rows(const HeadRows& h, std::int64_t first, std::int64_t count, int limit, std::int8_t* target,
                      std::int64_t target_stride, float* scales) {
  float row[kWidestQuantizedHead];
  const auto magnitude = static_cast<float>(std::abs(limit));
  with_element(h.dtype, [&](auto element) HWY_ATTR {
    for (std::int64_t j = 0; j < count; ++j) {
      load_row<decltype(element)>(h, first + j, row);
      const float largest = largest_magnitude(row, h.width);
      const float inverse = inverse_scale(largest, static_cast<float>(limit));
      scales[j] = largest / magnitude;
      std::int8_t* integers = target + j * target_stride;
      if (inverse == 0) {  // of what is not finite nothing else could be made
        std::fill_n(integers, h.width, std::int8_t{0});
        continue;
      }
      for_lanes_twice(h.width, [&](auto d, std::int64_t i) HWY_ATTR {
        const hn::Rebind<std::int8_t, decltype(d)> narrow;
        const auto whole = hn::NearestInt(hn::Mul(hn::LoadU(d, row + i), hn::Set(d, inverse)));
        hn::StoreU(hn::DemoteTo(narrow, whole), narrow, integers + i);
      });
    }
  });
}

void QuantizeInt8Columns(const HeadRows& h, std::int64_t first, std::int64_t count, std::int8_t* target,
                         std::int64_t target_width, float* scales) {
  with_element(h.dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for_lanes_twice(h.width, [&](auto d, std::int64_t c) HWY_ATTR {
      const hn::RebindToSigned<decltype(d)> di;
      auto most = hn::Zero(di);
      for (std::int64_t j = 0; j < count; ++j)
        most = hn::Max(most, hn::BitCast(di, hn::Abs(load_float(d, row_of<T>(h, first + j) + c))));
      const auto largest = hn::BitCast(d, most);
      // Written so that NaN has none.
      const auto has_scale = hn::And(hn::Gt(largest, hn::Set(d, kLeastMagnitude)),
                                     hn::Le(largest, hn::Set(d, std::numeric_limits<float>::max())));
      const auto limit = hn::Set(d, static_cast<float>(kInt8Limit));
      const auto inverse = hn::IfThenElseZero(has_scale, hn::Div(limit, largest));
      hn::StoreU(hn::Div(largest, limit), d, scales + c);
      const auto integers = [&](std::int64_t j) HWY_ATTR {
        if (j >= count) return hn::Zero(di);
        const auto whole = hn::NearestInt(hn::Mul(load_float(d, row_of<T>(h, first + j) + c), inverse));
        return hn::And(hn::IfThenElseZero(hn::RebindMask(di, has_scale), whole), hn::Set(di, 0xff));
      };
      for (std::int64_t j = 0; j < count; j += 4) {
        const auto low = hn::Or(integers(j), hn::ShiftLeft<8>(integers(j + 1)));
        const auto high = hn::Or(hn::ShiftLeft<16>(integers(j + 2)), hn::ShiftLeft<24>(integers(j + 3)));
        hn::StoreU(hn::Or(low, high), di, reinterpret_cast<std::int32_t*>(target) + j / 4 * target_width + c);
      }
    });
  });
}

/// e4m3's bits of numbers up to 448 (and rounding), to nearest even.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint8_t, D>> to_e4m3(D d, hn::Vec<D> value) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<std::uint8_t, D> narrow;
  constexpr std::int32_t kBias = 120 << 3;       // between the exponents of the two formats, above e4m3's mantissa
  constexpr std::int32_t kSmallest = 121 << 23;  // the bits of 2^-6; below steps stay at 2^-9
  const auto magnitude = hn::Abs(value);
  const auto bits = hn::BitCast(di, magnitude);
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
  const auto rounded = hn::ShiftRight<20>(hn::Add(bits, hn::Add(odd, hn::Set(di, 0x7ffff))));
  const auto normal = hn::Min(hn::Sub(rounded, hn::Set(di, kBias)), hn::Set(di, 0x7e));
  const auto subnormal = hn::NearestInt(hn::Mul(magnitude, hn::Set(d, 512.0F)));
  const auto code = hn::IfThenElse(hn::Lt(bits, hn::Set(di, kSmallest)), subnormal, normal);
  const auto sign = hn::And(hn::ShiftRight<24>(hn::BitCast(di, value)), hn::Set(di, 0x80));
  return hn::DemoteTo(narrow, hn::Or(code, sign));
}

void QuantizeE4m3Rows(const HeadRows& h, std::int64_t first, std::int64_t count, std::uint8_t* target, float* scales,
                      float* scratch) {
  const std::int64_t blocks = (h.width + kE4m3Columns - 1) / kE4m3Columns;
  float largest[(kWidestQuantizedHead + kE4m3Columns - 1) / kE4m3Columns] = {};
  const auto columns = [&](std::int64_t block) { return std::min(kE4m3Columns, h.width - block * kE4m3Columns); };
  with_element(h.dtype, [&](auto element) HWY_ATTR {
    for (std::int64_t j = 0; j < count; ++j) {
      float* row = scratch + j * h.width;
      load_row<decltype(element)>(h, first + j, row);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const float of_row = largest_magnitude(row + b * kE4m3Columns, columns(b));
        if (!(of_row <= largest[b])) largest[b] = std::isnan(largest[b]) ? largest[b] : of_row;
      }
    }
  });
  for (std::int64_t b = 0; b < blocks; ++b) {
    scales[b] = largest[b] / kE4m3Limit;
    const float inverse = inverse_scale(largest[b], kE4m3Limit);
    for (std::int64_t j = 0; j < count; ++j) {
      const float* row = scratch + j * h.width + b * kE4m3Columns;
      std::uint8_t* bytes = target + j * h.width + b * kE4m3Columns;
      if (inverse == 0) {
        std::fill_n(bytes, columns(b), std::uint8_t{0});
        continue;
      }
      for_lanes_twice(columns(b), [&](auto d, std::int64_t i) HWY_ATTR {
        const hn::Rebind<std::uint8_t, decltype(d)> narrow;
        hn::StoreU(to_e4m3(d, hn::Mul(hn::LoadU(d, row + i), hn::Set(d, inverse))), narrow, bytes + i);
      });
    }
  }
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(MeanOfRows);
HWY_EXPORT(AddMeanScores);
HWY_EXPORT(QuantizeInt8Rows);
HWY_EXPORT(QuantizeInt8Columns);
HWY_EXPORT(QuantizeE4m3Rows);

HeadRows key_rows(const FlashHeads& h) {
  return {h.dtype, h.key, h.key_stride, h.head_dim, h.quantization.key_mean, h.quantization.signs};
}

HeadRows value_rows(const FlashHeads& h) { return {h.dtype, h.value, h.value_stride, h.value_dim, nullptr, nullptr}; }

HeadRows query_rows(const FlashHeads& h, std::int64_t head) {
  const auto offset = static_cast<std::ptrdiff_t>(dtype_size(h.dtype)) * head * h.query_head_stride;
  return {h.dtype,        static_cast<const std::byte*>(h.query) + offset,
          h.query_stride, h.head_dim,
          nullptr,        h.quantization.signs};
}

const float* rotation_signs() {
  static const std::vector<float> signs = [] {
    std::vector<float> all;
    for (std::int64_t i = 0; i < kWidestQuantizedHead; ++i) all.push_back(rotation_sign(i));
    return all;
  }();
  return signs.data();
}

void mean_of_rows(const HeadRows& rows, std::int64_t count, float* mean) {
  HWY_DYNAMIC_DISPATCH(MeanOfRows)(rows, count, mean);
}

void add_mean_scores(const HeadRows& rows, std::int64_t count, const float* mean, float scale, float* lse,
                     std::int64_t lse_stride) {
  HWY_DYNAMIC_DISPATCH(AddMeanScores)(rows, count, mean, scale, lse, lse_stride);
}

void quantize_int8_rows(const HeadRows& rows, std::int64_t first, std::int64_t count, int limit, std::int8_t* target,
                        std::int64_t target_stride, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantizeInt8Rows)(rows, first, count, limit, target, target_stride, scales);
}

void quantize_int8_columns(const HeadRows& rows, std::int64_t first, std::int64_t count, std::int8_t* target,
                           std::int64_t target_width, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantizeInt8Columns)(rows, first, count, target, target_width, scales);
}

void quantize_e4m3_rows(const HeadRows& rows, std::int64_t first, std::int64_t count, std::uint8_t* target,
                        float* scales, float* scratch) {
  HWY_DYNAMIC_DISPATCH(QuantizeE4m3Rows)(rows, first, count, target, scales, scratch);
}

}  // namespace rondo::cpu
#endif
