// Attention on operands that become 8 bits wide while it runs. What they become is a matter of float32 arithmetic in a
// given order, so that every kernel finds the same; the rest of this model is float64.
//
// int8   query     a scale a row, integers up to Int8Ranges::query
//        key       a scale a row
//        value     a scale a column for every kKeysOfBlock keys
//        weight    exp(score - the block's largest score) as an unsigned integer up to Int8Ranges::weight, same blocks
// fp8    query     e4m3, a scale for kE4m3Queries rows x kE4m3Columns columns
//        key       e4m3, for kE4m3Keys x kE4m3Columns; value likewise
//        (where a kernel scales whole tensors each operand has one scale)
//        weight    kE4m3Bits significant bits of exp2(score in base 2): a power of two more or less changes nothing, so
//                  that it is all the same what stands for the largest score. e4m3's underflow is not modelled.
//
// Before that queries and keys may be turned (rotate_head), and keys lose their mean (key_mean): a constant for each
// query, which softmax does not see and the LSE gets back.
//
// Scores are scaled and masked in floats, blocks are put together in floats, and results are normed by the sum of the
// weights that were used: what rounding takes from a weight goes to the others. The LSE is that of the weights before
// they are rounded. After SageAttention (Zhang et al., 2024), QuaRot (Ashkboos et al., 2024) and FlashAttention-3 (Shah
// et al., 2024).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention_kernel.h"
#include "attention/attention_quantization.h"
#include "attention/quantization_limits.h"

namespace rondo {

/// The largest integers that this CPU's instructions multiply exactly: those of VNNI, or the narrow ones.
struct Int8Ranges {
  int query;
  int weight;
};
Int8Ranges int8_ranges();

/// Multiplies a head's row by random signs (of a fixed seed), then by normalised Walsh-Hadamard matrices of the powers
/// of two whose sum its length is, largest first (72 = 64 + 8): orthogonal for every length.
void rotate_head(std::span<float> row);

/// The mean of rows of `width` elements, in float32: sums of kKeysOfBlock rows in their order, then the sum of those.
std::vector<float> key_mean(std::span<const float> rows, std::int64_t width);

/// The runner of "reference" for quantised operands; `scales_whole_tensors` as AttentionKernel has it.
std::unique_ptr<AttentionRunner> reference_quantized_runner(const AttentionQuantization& quantization,
                                                            bool scales_whole_tensors = false);

}  // namespace rondo
