// SIMD around products that are cut into tiles: what makes a product's input (smoothed, turned, in 8 bits), what turns
// sums into results (scales, bias, activation, rounding), and what unpacks stored integers.
#pragma once

#include <cstdint>
#include <optional>

#include "backends/cpu/row_map.h"
#include "ops/elementwise.h"

namespace rondo::cpu {

/// What happens to an input row before it is multiplied; null and 0 for nothing.
struct InputTransform {
  const float* factors = nullptr;  // [width]: smoothing and signs in one
  std::int64_t rotation = 0;
};

/// A row cut into chunks: element i stands at base[i / chunk * stride + i % chunk].
struct ChunkedRow {
  void* base;
  std::int64_t chunk;
  std::int64_t stride;
};

/// x times its factors, turned: to `out` [width]. x is float32, bfloat16 or float16.
void transform_row(const RowMap& x, std::int64_t row, std::int64_t width, const InputTransform& transform, float* out);

/// A row in unsigned 8 bits around 128; returns its scale. Where x is not finite the scale is not either.
float quantize_row(const RowMap& x, std::int64_t row, std::int64_t width, const ChunkedRow& target);

/// `count` integers (bits = 8: one a byte; bits = 4: the even one in the low half) to floats, times their group's scale
/// where scales are given.
void decode_integers(const void* integers, int bits, const float* scales, std::int64_t group, std::int64_t count,
                     const ChunkedRow& target, DType dtype);

/// A tile of sums and what makes results of them: activation(sum' * row_scale * column_scale + bias), where sum' is the
/// sum, of integers less its column's zero. Null for nothing.
struct TileSums {
  const float* floats = nullptr;  // one of the two, [rows, width]
  const std::int32_t* integers = nullptr;
  const std::int32_t* zeros = nullptr;
  const float* row_scales = nullptr;
  const float* column_scales = nullptr;
  const float* bias = nullptr;
  std::optional<ActivationKind> activation;
  const RowMap* gate = nullptr;  // with it, residual + gate * result; rows and dtype as the target's
  const RowMap* residual = nullptr;
};

/// To rows first, first + 1, ... of `target`, from column `column` on.
void finish_tile(const TileSums& sums, std::int64_t rows, std::int64_t width, const RowMap& target, std::int64_t first,
                 std::int64_t column);

}  // namespace rondo::cpu
