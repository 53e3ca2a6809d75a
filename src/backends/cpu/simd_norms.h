// SIMD over ranges of rows: norms, modulation, rotation, and the fusions of them, as simd_rows.h.
#pragma once

#include "backends/cpu/simd_rows.h"
#include "rondo/operators.h"

namespace rondo::cpu {

/// `weight` may be null.
void rms_norm_rows(const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows);
/// `sum` = x + residual, `normed` = its norm. `weight` may be null.
void add_rms_norm_rows(const RowMap& x, const RowMap& residual, const float* weight, float eps, const RowMap& normed,
                       const RowMap& sum, RowRange rows);
/// `weight` and `bias` may be null, both or neither.
void layer_norm_rows(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y,
                     RowRange rows);

// Row r takes row r of scale, shift and gate (maps that repeat rows); their dtype may be another than x's.
void modulate_rows(const RowMap& x, const RowMap& scale, const RowMap& shift, const RowMap& y, RowRange rows);
void gated_add_rows(const RowMap& residual, const RowMap& gate, const RowMap& x, const RowMap& y, RowRange rows);
/// layer_norm_rows, then modulate_rows.
void layer_norm_modulate_rows(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& scale,
                              const RowMap& shift, const RowMap& y, RowRange rows);

/// Row r turns by row r of the tables, which are float32 with as many columns as x (one value for each element) or half
/// as many (one for each pair).
struct Rotation {
  RotaryMode mode;
  const RowMap& cos;
  const RowMap& sin;
  bool shared;  // half as many columns
};
/// y must not be x.
void rope_rows(const RowMap& x, const Rotation& rotation, const RowMap& y, RowRange rows);
/// rms_norm_rows, then rope_rows.
void rms_norm_rope_rows(const RowMap& x, const float* weight, float eps, const Rotation& rotation, const RowMap& y,
                        RowRange rows);

/// x has rows of 2 * width: hidden and gate. y = hidden * silu(gate)
void swiglu_rows(const RowMap& x, const RowMap& y, RowRange rows);

}  // namespace rondo::cpu
