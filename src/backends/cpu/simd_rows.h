// SIMD over ranges of rows: element by element, and group norm's passes. Data is float32, bfloat16 or float16,
// arithmetic float32 throughout. Each function handles rows [begin, end); callers split the rows over threads.
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

void activation_rows(ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows);
/// Row r of a meets row r % period of b.
void binary_rows(BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y,
                 RowRange rows);
void cast_rows(const RowMap& x, const RowMap& y, RowRange rows);

/// Group norm's three passes over rows (positions) of width channels. Sums are added to `sums`, one double a channel.
void channel_sums(const RowMap& x, double* sums, RowRange rows);
void channel_square_sums(const RowMap& x, const float* mean, double* sums, RowRange rows);
/// y = x * scale + shift, one of each a channel
void channel_affine(const RowMap& x, const float* scale, const float* shift, const RowMap& y, RowRange rows);

}  // namespace rondo::cpu
