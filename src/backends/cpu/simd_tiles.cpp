#include "backends/cpu/simd_tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantization/linear_quantization.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_tiles.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/row_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

/// As rotate_row() of quantization/linear_quantization.h, signs applied before.
void TurnRow(float* row, std::int64_t width, std::int64_t parts) {
  const std::int64_t part = width / parts;
  for (std::int64_t distance = 1; distance < parts; distance *= 2) {
    for (std::int64_t first = 0; first < parts; ++first) {
      if ((first & distance) != 0) continue;
      float* a = row + first * part;
      float* b = a + distance * part;
      for_lanes(part, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto u = hn::LoadU(d, a + i);
        const auto v = hn::LoadU(d, b + i);
        hn::StoreU(hn::Add(u, v), d, a + i);
        hn::StoreU(hn::Sub(u, v), d, b + i);
      });
    }
  }
}

void Transform(const RowMap& x, std::int64_t row, std::int64_t width, const InputTransform& transform, float* out) {
  // The turn's norm goes into the first pass.
  const float norm = transform.rotation == 0 ? 1.0F : 1.0F / std::sqrt(static_cast<float>(transform.rotation));
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    const auto* in = x.row<const decltype(element)>(row);
    for_lanes(width, [&](auto d, std::int64_t i) HWY_ATTR {
      auto value = hn::Mul(load_float(d, in + i), hn::Set(d, norm));
      if (transform.factors != nullptr) value = hn::Mul(value, hn::LoadU(d, transform.factors + i));
      hn::StoreU(value, d, out + i);
    });
  });
  if (transform.rotation != 0) TurnRow(out, width, transform.rotation);
}

/// The largest magnitude, compared as bits: NaN stands above infinity, infinity above all numbers.
template <class T>
HWY_INLINE float largest_magnitude(const T* x, std::int64_t width) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> bits;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto m0 = hn::Zero(bits);
  auto m1 = hn::Zero(bits);
  const auto magnitude = [&](std::int64_t i) HWY_ATTR { return hn::BitCast(bits, hn::Abs(load_float(d, x + i))); };
  std::int64_t i = 0;
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    m0 = hn::Max(m0, magnitude(i));
    m1 = hn::Max(m1, magnitude(i + lanes));
  }
  for (; i + lanes <= width; i += lanes) m0 = hn::Max(m0, magnitude(i));
  std::int32_t most = hn::GetLane(hn::MaxOfLanes(bits, hn::Max(m0, m1)));
  for (; i < width; ++i) {
    const float value = std::abs(load_one(x + i));
    std::int32_t value_bits = 0;
    std::memcpy(&value_bits, &value, sizeof value_bits);
    most = std::max(most, value_bits);
  }
  float result = 0;
  std::memcpy(&result, &most, sizeof result);
  return result;
}

float QuantizeRow(const RowMap& x, std::int64_t row, std::int64_t width, const ChunkedRow& target) {
  float scale = 0;
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    const auto* in = x.row<const decltype(element)>(row);
    const float largest = largest_magnitude(in, width);
    scale = largest / static_cast<float>(kInputLimit);
    // Of a row of zeros, or of one that is not finite, the integers are zeros; in the latter case the scale tells.
    const float inverse = largest > 0 && std::isfinite(largest) ? static_cast<float>(kInputLimit) / largest : 0.0F;
    for (std::int64_t c = 0; c * target.chunk < width; ++c) {
      auto* out = static_cast<std::uint8_t*>(target.base) + c * target.stride;
      const auto* part = in + c * target.chunk;
      for_lanes(std::min(target.chunk, width - c * target.chunk), [&](auto d, std::int64_t i) HWY_ATTR {
        const hn::RebindToSigned<decltype(d)> integer;
        const hn::Rebind<std::uint8_t, decltype(d)> narrow;
        const auto scaled = hn::Mul(load_float(d, part + i), hn::Set(d, inverse));
        const auto shifted = hn::Add(hn::NearestInt(scaled), hn::Set(integer, kInputZero));
        hn::StoreU(hn::DemoteTo(narrow, shifted), narrow, out + i);
      });
    }
  });
  return scale;
}

float LargestInRow(const RowMap& x, std::int64_t row, std::int64_t width) {
  float largest = 0;
  with_element(x.dtype(),
               [&](auto element) HWY_ATTR { largest = largest_magnitude(x.row<const decltype(element)>(row), width); });
  return largest;
}

float RoundRowToE4m3(const RowMap& x, std::int64_t row, std::int64_t width, float largest, const ChunkedRow& target,
                     DType dtype) {
  const float inverse = largest > kLeastMagnitude && std::isfinite(largest) ? kE4m3Limit / largest : 0.0F;
  with_element(x.dtype(), [&](auto source) HWY_ATTR {
    const auto* in = x.row<const decltype(source)>(row);
    with_element(dtype, [&](auto element) HWY_ATTR {
      for (std::int64_t c = 0; c * target.chunk < width; ++c) {
        auto* out = static_cast<decltype(element)*>(target.base) + c * target.stride;
        const auto* part = in + c * target.chunk;
        for_lanes(std::min(target.chunk, width - c * target.chunk), [&](auto d, std::int64_t i) HWY_ATTR {
          // Where nothing is a number the scale tells; 0 times infinity would be none.
          const auto scaled =
              inverse == 0 ? hn::Zero(d) : round_to_e4m3(d, hn::Mul(load_float(d, part + i), hn::Set(d, inverse)));
          store_float(d, scaled, out + i);
        });
      }
    });
  });
  return largest / kE4m3Limit;
}

/// Signed bytes as floats.
template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const std::int8_t* source) {
  const hn::Rebind<std::int8_t, D> narrow;
  const hn::RebindToSigned<D> integer;
  return hn::ConvertTo(d, hn::PromoteTo(integer, hn::LoadU(narrow, source)));
}

/// `count` (even) integers of 4 bits, the even one in a byte's low half, as signed bytes.
HWY_INLINE void unpack_nibbles(const std::uint8_t* packed, std::int64_t count, std::int8_t* out) {
  const hn::CappedTag<std::uint8_t, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto sign = hn::Set(d, std::uint8_t{8});
  const auto extend = [&](auto nibble) HWY_ATTR { return hn::Sub(hn::Xor(nibble, sign), sign); };
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  std::int64_t i = 0;
  for (; i + lanes <= count / 2; i += lanes) {
    const auto both = hn::LoadU(d, packed + i);
    const auto even = extend(hn::And(both, hn::Set(d, std::uint8_t{0xf})));
    const hn::Repartition<std::uint16_t, decltype(d)> wide;
    const auto high = hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(wide, both)));
    const auto odd = extend(hn::And(high, hn::Set(d, std::uint8_t{0xf})));
    hn::StoreU(hn::InterleaveLower(d, even, odd), d, bytes + 2 * i);
    hn::StoreU(hn::InterleaveUpper(d, even, odd), d, bytes + 2 * i + lanes);
  }
  for (; i < count / 2; ++i) {
    out[2 * i] = static_cast<std::int8_t>(static_cast<int>((packed[i] & 0xfU) ^ 8U) - 8);
    out[2 * i + 1] = static_cast<std::int8_t>(static_cast<int>((packed[i] >> 4U) ^ 8U) - 8);
  }
}

void DecodeWeights(const void* weights, StoredWeights kind, const float* scales, std::int64_t group, std::int64_t count,
                   const ChunkedRow& target, DType dtype) {
  constexpr std::int64_t kBlock = 64;
  HWY_ALIGN std::int8_t block[kBlock];
  with_element(dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t c = 0; c * target.chunk < count; ++c) {
      T* out = static_cast<T*>(target.base) + c * target.stride;
      const std::int64_t end = std::min(count, (c + 1) * target.chunk);
      for (std::int64_t first = c * target.chunk; first < end;) {
        const std::int64_t group_end = scales == nullptr ? end : (first / group + 1) * group;
        const std::int64_t length = std::min({kBlock, end - first, group_end - first});
        const float scale = scales == nullptr ? 1.0F : scales[first / group];
        T* to = out + (first - c * target.chunk);
        const auto decode = [&](const auto* bytes) HWY_ATTR {
          for_lanes(length, [&](auto d, std::int64_t i) HWY_ATTR {
            store_float(d, hn::Mul(load_float(d, bytes + i), hn::Set(d, scale)), to + i);
          });
        };
        switch (kind) {
          case StoredWeights::int4:
            unpack_nibbles(static_cast<const std::uint8_t*>(weights) + first / 2, length, block);
            decode(static_cast<const std::int8_t*>(block));
            break;
          case StoredWeights::int8: decode(static_cast<const std::int8_t*>(weights) + first); break;
          case StoredWeights::e4m3: decode(static_cast<const E4m3*>(weights) + first); break;
        }
        first += length;
      }
    }
  });
}

/// Loads a sum as a float: products of integers less their column's zero.
template <class D>
HWY_INLINE hn::Vec<D> load_sum(D d, const TileSums& sums, std::int64_t at, std::int64_t column) {
  if (sums.integers == nullptr) return hn::LoadU(d, sums.floats + at);
  const hn::RebindToSigned<D> integer;
  const auto zero = hn::LoadU(integer, sums.zeros + column);
  return hn::ConvertTo(d, hn::Sub(hn::LoadU(integer, sums.integers + at), zero));
}

void FinishTile(const TileSums& sums, std::int64_t rows, std::int64_t width, const RowMap& target, std::int64_t first,
                std::int64_t column) {
  with_element(target.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = 0; r < rows; ++r) {
      T* out = target.row<T>(first + r) + column;
      const T* gate = sums.gate == nullptr ? nullptr : sums.gate->row<const T>(first + r) + column;
      const T* residual = sums.gate == nullptr ? nullptr : sums.residual->row<const T>(first + r) + column;
      const float row_scale = sums.row_scales == nullptr ? 1.0F : sums.row_scales[r];
      for_lanes(width, [&](auto d, std::int64_t i) HWY_ATTR {
        auto value = load_sum(d, sums, r * width + i, i);
        auto scale = hn::Set(d, row_scale);
        if (sums.column_scales != nullptr) scale = hn::Mul(scale, hn::LoadU(d, sums.column_scales + i));
        const auto bias = sums.bias == nullptr ? hn::Zero(d) : hn::LoadU(d, sums.bias + i);
        value = hn::MulAdd(value, scale, bias);
        if (sums.activation) value = activate(d, *sums.activation, value);
        if (gate != nullptr) value = hn::MulAdd(value, load_float(d, gate + i), load_float(d, residual + i));
        store_float(d, value, out + i);
      });
    }
  });
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(Transform);
HWY_EXPORT(QuantizeRow);
HWY_EXPORT(LargestInRow);
HWY_EXPORT(RoundRowToE4m3);
HWY_EXPORT(DecodeWeights);
HWY_EXPORT(FinishTile);

void transform_row(const RowMap& x, std::int64_t row, std::int64_t width, const InputTransform& transform, float* out) {
  HWY_DYNAMIC_DISPATCH(Transform)(x, row, width, transform, out);
}
float quantize_row(const RowMap& x, std::int64_t row, std::int64_t width, const ChunkedRow& target) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRow)(x, row, width, target);
}
float largest_in_row(const RowMap& x, std::int64_t row, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(LargestInRow)(x, row, width);
}
float round_row_to_e4m3(const RowMap& x, std::int64_t row, std::int64_t width, float largest, const ChunkedRow& target,
                        DType dtype) {
  return HWY_DYNAMIC_DISPATCH(RoundRowToE4m3)(x, row, width, largest, target, dtype);
}
void decode_weights(const void* weights, StoredWeights kind, const float* scales, std::int64_t group,
                    std::int64_t count, const ChunkedRow& target, DType dtype) {
  HWY_DYNAMIC_DISPATCH(DecodeWeights)(weights, kind, scales, group, count, target, dtype);
}
void finish_tile(const TileSums& sums, std::int64_t rows, std::int64_t width, const RowMap& target, std::int64_t first,
                 std::int64_t column) {
  HWY_DYNAMIC_DISPATCH(FinishTile)(sums, rows, width, target, first, column);
}

}  // namespace rondo::cpu
#endif  // HWY_ONCE
