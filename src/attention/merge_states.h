// Partial results of attention over disjoint sets of keys, put together.
#pragma once

#include "rondo/attention.h"

namespace rondo {

/// `a` becomes the union of `a` and `b`. Both out [B, S, N, D] with a dense last axis, lse [B, N, S] float32; shapes
/// and dtypes agree (unchecked). Weights are exp(lse - largest lse), so that any lse is safe; -infinity on both sides
/// leaves 0 and -infinity.
void merge_states_into(AttentionResult& a, const AttentionResult& b, int threads);

}  // namespace rondo
