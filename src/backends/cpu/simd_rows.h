// SIMD over ranges of rows. Data is float32 or bfloat16, arithmetic float32 throughout. Each function handles rows
// [begin, end); callers split the rows over threads.
#pragma once

#include <cstdint>

#include "backends/cpu/row_map.h"
#include "ops/elementwise.h"

namespace rondo::cpu {

struct RowRange {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t width;
};

/// `weight` may be null.
void rms_norm_rows(DType dtype, const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows);
/// `weight` and `bias` may be null, both or neither.
void layer_norm_rows(DType dtype, const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y,
                     RowRange rows);
/// Row r takes row r / rows_per_vector of scale and shift.
void modulate_rows(DType dtype, const RowMap& x, const RowMap& scale, const RowMap& shift, std::int64_t rows_per_vector,
                   const RowMap& y, RowRange rows);
void gated_add_rows(DType dtype, const RowMap& residual, const RowMap& gate, const RowMap& x,
                    std::int64_t rows_per_vector, const RowMap& y, RowRange rows);
void activation_rows(DType dtype, ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows);
/// Row r of a meets row r % period of b.
void binary_rows(DType dtype, BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y,
                 RowRange rows);
void cast_rows(DType from, const RowMap& x, DType to, const RowMap& y, RowRange rows);
/// Row r stands at position r / heads % positions; the tables have width / 2 columns.
void rope_rows(DType dtype, const RowMap& x, const float* cos, const float* sin, std::int64_t heads,
               std::int64_t positions, const RowMap& y, RowRange rows);

/// Group norm's three passes over rows (positions) of width channels. Sums are added to `sums`, one double a channel.
void channel_sums(DType dtype, const RowMap& x, double* sums, RowRange rows);
void channel_square_sums(DType dtype, const RowMap& x, const float* mean, double* sums, RowRange rows);
/// y = x * scale + shift, one of each a channel
void channel_affine(DType dtype, const RowMap& x, const float* scale, const float* shift, const RowMap& y,
                    RowRange rows);

}  // namespace rondo::cpu
