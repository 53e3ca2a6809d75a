// Attention on operands that become 8-bit integers while it runs. What integers they become is a matter of float32
// arithmetic in a given order, so that every kernel finds the same; the rest of this model is float64.
//
//   query   a scale a row; key: a scale a row; both turned first where that is asked for
//   value   a scale a column for every kKeysOfBlock keys
//   weight  exp(score - the block's largest score) in unsigned 8 bits, for the same blocks
//
// Scores are scaled and masked in floats, blocks are put together in floats, and results are normed by the sum of the
// weights that were used: what rounding takes from a weight goes to the others. The LSE is that of the weights before
// they are rounded. After SageAttention (Zhang et al., 2024) and QuaRot (Ashkboos et al., 2024).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "attention/attention_kernel.h"
#include "attention/int8_limits.h"

namespace rondo {

/// Multiplies a head's row by random signs (of a fixed seed), then by normalised Walsh-Hadamard matrices of the powers
/// of two whose sum its length is, largest first (72 = 64 + 8): orthogonal for every length.
void rotate_head(std::span<float> row);

/// The runner of "reference" for int8 problems.
std::unique_ptr<AttentionRunner> reference_int8_runner(bool rotate);

}  // namespace rondo
