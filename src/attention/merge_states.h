// Partial results of attention over disjoint sets of keys, put together.
#pragma once

#include "rondo/attention.h"

namespace rondo {

/// `merged` becomes the union of `a` and `b`, one of which it may be. Outputs [B, S, N, D] with a dense last axis, lse
/// [B, N, S] float32; shapes agree, and the dtypes of a's and b's outputs (unchecked): float32, bfloat16 or float16, as
/// `merged` has. Weights are exp(lse - largest lse), so that any lse is safe; -infinity on both sides leaves 0 and
/// -infinity.
void merge_states(const AttentionResult& a, const AttentionResult& b, AttentionResult merged, int threads);

}  // namespace rondo
