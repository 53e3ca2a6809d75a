// Flash attention whose operands become 8-bit integers while it runs: as flash_attention.h. How they are quantised
// stands in attention/quantized_attention.h. Keys and values are packed once, kKeysOfBlock of them together, for all
// blocks of queries.
#pragma once

#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

/// A block of queries at one CPU level.
struct Int8Block {
  std::int64_t queries;
  int limit;  // of their integers
  int zero;   // what is added to make them unsigned: above the limit, at most 128
};

/// What multiplies at one CPU level.
struct FlashInt8 {
  Int8Block block;
  /// Blocks [first, last) of queries, counted over all heads of the group. `packed` holds every block of the group's
  /// keys and values, one behind the other. Memory is 64-byte aligned.
  void (*run)(const FlashHeads& heads, const std::byte* packed, std::int64_t first, std::int64_t last,
              std::byte* scratch);
};

/// Needs AVX-512 VNNI.
FlashInt8 flash_int8_vnni();
/// At every CPU level, within the ranges below VNNI.
FlashInt8 flash_int8_simd();

/// Bytes of one packed block of keys and values, and of the scratch of one run.
std::size_t flash_int8_block_bytes(std::int64_t head_dim, std::int64_t value_dim);
std::size_t flash_int8_scratch_bytes(std::int64_t head_dim, std::int64_t value_dim);

/// Quantises the block of keys and values that begins at `key` into `target`; `query_zero` as Int8Block::zero.
void flash_int8_pack(const FlashHeads& heads, std::int64_t key, int query_zero, std::byte* target);

/// Quantises queries [first, first + count) of a head into the scratch of a run, whose sums begin anew.
void flash_int8_load_queries(const FlashHeads& heads, std::int64_t head, std::int64_t first, std::int64_t count,
                             const Int8Block& block, std::byte* scratch);

}  // namespace rondo::cpu
