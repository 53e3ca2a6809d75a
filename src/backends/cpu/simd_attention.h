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

}  // namespace rondo::cpu
