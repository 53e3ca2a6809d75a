// The public attention functions on the random operands of a problem: what the benchmark times and the tests check.
#pragma once

#include "attention/random_attention.h"
#include "rondo/attention.h"

namespace rondo {

/// attention_forward, or attention_forward_varlen for a varlen problem. Scale, causal and LSE are the problem's,
/// whatever `options` says.
AttentionResult forward(const RandomAttention& operands, AttentionOptions options);

/// The result in float64; of quantised operands as kernels quantise them that scale whole tensors, or blocks.
AttentionResult reference_forward(const RandomAttention& operands, bool scales_whole_tensors = false);

}  // namespace rondo
