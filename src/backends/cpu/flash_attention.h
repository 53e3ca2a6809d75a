// Flash attention (Dao et al., 2022) in float32 SIMD, at every CPU level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rondo/dtype.h"

namespace rondo::cpu {

/// How rows become quantised operands, and what these are multiples of; null where it does not apply.
struct HeadQuantization {
  const float* signs;     // of the rotation (rotation_signs())
  const float* key_mean;  // [head_dim], taken from the keys
  // Of e4m3 operands, [row / kE4m3Queries or kE4m3Keys][column / kE4m3Columns].
  const float* query_scales;
  const float* key_scales;
  const float* value_scales;
  std::int64_t query_scales_head_stride;
};

/// One sequence's query heads that share one key head. Strides are in elements; the last axis (head dim, or the mask's
/// keys) is dense.
struct FlashHeads {
  DType dtype;         // of query, key and value: f32, bf16 or f16, or what a kernel has quantised them to
  DType output_dtype;  // f32, bf16 or f16
  const void* query;
  const void* key;
  const void* value;
  void* output;
  std::int64_t query_stride;  // from one position to the next
  std::int64_t key_stride;
  std::int64_t value_stride;
  std::int64_t output_stride;
  std::int64_t query_head_stride;  // from one query head of the group to the next
  std::int64_t output_head_stride;
  float* lse;  // [group][queries], or null
  std::int64_t lse_stride;
  std::int64_t lse_head_stride;
  const void* mask;                // null when there is none
  DType mask_dtype;                // boolean: true = keep; f32, bf16, f16: added to the scaled score
  std::int64_t mask_query_stride;  // 0: one row for all queries
  std::int64_t mask_head_stride;
  std::int64_t group;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t head_dim;
  std::int64_t value_dim;
  float scale;
  bool causal;  // query i sees keys up to i + keys - queries
  HeadQuantization quantization;
};

/// Queries are worked on in blocks: a block is so many queries of one head, the last of a head may be shorter.
std::int64_t flash_block_queries();

struct FlashTiling {
  /// Keys and values that are packed together.
  std::int64_t key_block;
  /// The most blocks of one call: they share what it packs.
  std::int64_t chunk;
};

/// Scratch of one call, in bytes. It does not grow with the sequence.
std::size_t flash_scratch_bytes(const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim);

/// Blocks [first, last), at most tiling.chunk, counted over all heads of the group. `scratch` is 64-byte aligned.
/// Operands may be f8_e4m3, with scales; weights are then rounded to kE4m3Bits significant bits.
void flash_attention(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
                     std::byte* scratch);

}  // namespace rondo::cpu
