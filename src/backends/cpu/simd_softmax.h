// The softmax of attention whose products are a library's.
#pragma once

#include <cstdint>

namespace rondo::cpu {

/// weights[i] = exp(scale * scores[i] - most) in bfloat16, where `most` is the largest exponent. The first `visible` of
/// `keys` scores count; the other weights are 0. `scores` is overwritten. Returns the sum of the weights before
/// rounding: 0 when nothing is visible.
float softmax_row_to_bf16(float* scores, float scale, std::int64_t visible, std::int64_t keys, std::uint16_t* weights);

/// target[i] = source[i] * factor, rounded to bfloat16
void scale_row_to_bf16(const float* source, float factor, std::int64_t width, std::uint16_t* target);

}  // namespace rondo::cpu
