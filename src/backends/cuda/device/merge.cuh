// Partial results of attention over disjoint sets of keys, put together.
#pragma once

#include "backends/cuda/device/elements.cuh"

namespace rondo::cuda {

/// Output and LSE of the union of two sets of keys; `pack` elements of a row at a time. What saw nothing weighs
/// nothing, whatever its output holds.
template <typename T, int pack>
__global__ void merge_attention_kernel(MergeLaunch call) {
  const std::int64_t packs = call.output.width / pack;
  for (std::int64_t i = own_element(); i < call.output.rows() * packs; i += element_step()) {
    const std::int64_t row = i / packs;
    const std::int64_t at = i % packs * pack;
    const std::int64_t token = row / call.heads % call.tokens;
    const std::int64_t of_lse =
        (row / (call.heads * call.tokens) * call.heads + row % call.heads) * call.tokens + token;
    const float a_lse = call.a_lse[of_lse];
    const float b_lse = call.b_lse[of_lse];
    const float most = a_lse > b_lse ? a_lse : b_lse;
    const float a_weight = a_lse == -INFINITY ? 0.0F : expf(a_lse - most);
    const float b_weight = b_lse == -INFINITY ? 0.0F : expf(b_lse - most);
    const float sum = a_weight + b_weight;
    const auto a = *reinterpret_cast<const Pack<float, pack>*>(row_of<const float>(call.a, row) + at);
    const auto b = *reinterpret_cast<const Pack<float, pack>*>(row_of<const float>(call.b, row) + at);
    T* const target = row_of<T>(call.output, row) + at;
    for (int k = 0; k < pack; ++k) {
      const float from_a = a_weight == 0 ? 0.0F : a_weight / sum * a.values[k];
      const float from_b = b_weight == 0 ? 0.0F : b_weight / sum * b.values[k];
      target[k] = from_float<T>(from_a + from_b);
    }
    if (at == 0) call.lse[of_lse] = sum == 0 ? -INFINITY : most + logf(sum);
  }
}

}  // namespace rondo::cuda
