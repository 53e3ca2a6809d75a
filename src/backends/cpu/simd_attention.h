// Flash attention (Dao et al., 2022) in float32 SIMD: one head's block of query rows against all keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rondo/tensor.h"

namespace rondo::cpu {

struct FlashProblem {
  // Addresses are set anew for each run; layouts as in AttentionOp. Rows of the last axis are dense.
  Tensor query;
  Tensor key;
  Tensor value;
  Tensor bias;    // undefined when there is none
  Tensor output;  // dense
  float scale;
  bool causal;
};

/// Scratch for one thread, in bytes.
std::size_t flash_scratch_bytes(std::int64_t keys, std::int64_t head_dim, std::int64_t value_dim);

/// Query rows [begin, end) of head `head` of batch row `batch`.
void flash_attention_rows(const FlashProblem& problem, std::int64_t batch, std::int64_t head, std::int64_t begin,
                          std::int64_t end, float* scratch);

/// For attention whose products are somebody else's: weights[i] = exp(scale * scores[i] + bias[i] - most) in bfloat16,
/// where `most` is the largest exponent. The first `visible` of `keys` scores count; the other weights are 0. `bias`
/// may be null. `scores` is overwritten. Returns the sum of the weights before rounding: 0 when nothing is visible.
float softmax_row_to_bf16(float* scores, float scale, const float* bias, std::int64_t visible, std::int64_t keys,
                          std::uint16_t* weights);

/// target[i] = source[i] * factor, rounded to bfloat16
void scale_row_to_bf16(const float* source, float factor, std::int64_t width, std::uint16_t* target);

}  // namespace rondo::cpu
