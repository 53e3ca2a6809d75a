// SIMD around products that are cut into tiles: what makes a product's input (smoothed, turned, in 8 bits), what turns
// sums into results (scales, bias, activation, rounding), and what unpacks stored weights.
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

/// The largest magnitude of a row: what is infinite or no number stands above all.
float largest_in_row(const RowMap& x, std::int64_t row, std::int64_t width);

/// A row as numbers that e4m3 holds, in float32 or bfloat16, where `largest` becomes its largest; returns their scale.
float round_row_to_e4m3(const RowMap& x, std::int64_t row, std::int64_t width, float largest, const ChunkedRow& target,
                        DType dtype);

/// How stored weights stand: one a byte, or two, the even one in the low half.
enum class StoredWeights : std::uint8_t { int4, int8, e4m3 };

/// `count` stored weights to floats, times their group's scale where scales are given.
void decode_weights(const void* weights, StoredWeights kind, const float* scales, std::int64_t group,
                    std::int64_t count, const ChunkedRow& target, DType dtype);

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
