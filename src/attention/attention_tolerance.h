// How far a kernel's result may lie from float64: one table, for the tests and `rondo bench attention --check` alike.
//
//   operands          arithmetic                        99.9 % of elements   every element   LSE
//   float32           float32                           1e-5                 1e-4            2e-5
//   float16           float32                           6e-4                 6e-3            2e-5
//   bfloat16          float32                           4.5e-3               4.5e-2          2e-5
//   bfloat16          weights rounded to bfloat16       1.2e-2               1.2e-1          2e-4
//   int8              as quantized_attention.h says     1.2e-2               6e-2            2e-4
//   fp8               likewise                          4e-2 (99 %)          1.2e-1          2e-4
//   fp8, rounding     and weights, rotated rows and
//                     results as a device has them      6e-2 (99 %)          1.6e-1          2e-4
//
// Elements are relative to their row's scale: its largest magnitude, but at least 0.1 where values have a deviation of
// 1, and at least 1 in rows of less than 24 columns, which do not show how large the values were that cancelled. The
// LSE is relative to its own magnitude, but at least 1. Where scaled scores exceed 100, all grow in proportion.
#pragma once

#include <string>

#include "rondo/attention.h"

namespace rondo {

struct AttentionTolerance {
  double usual;
  double most;
  double lse;
  double share_beyond_usual = 1e-3;
};

/// `rounds_weights` as AttentionKernel has it; `largest_score`: the largest magnitude of a scaled score. Quantised
/// results are compared with what the same quantisation gives in float64: where a value lies between two integers,
/// either may be taken; the step between two weights in e4m3 is up to an eighth of them.
AttentionTolerance attention_tolerance(DType dtype, KvCacheDtype kv_cache, bool rounds_weights, double largest_score);

struct AttentionDifference {
  /// The largest, relative to the row's scale.
  double worst = 0;
  /// Empty when the result is within the tolerance, else what is wrong.
  std::string failure;
};

/// Compares outputs [.., D] and, where both have one, LSEs. A NaN must stand where one is expected and nowhere else.
AttentionDifference compare_attention(const AttentionResult& actual, const AttentionResult& expected,
                                      AttentionTolerance tolerance);

}  // namespace rondo
