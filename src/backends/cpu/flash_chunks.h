// How flash attention's work is cut: into chunks of query blocks, each for one sequence and one key head.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_kernel.h"
#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

/// What computes the chunks.
struct FlashImplementation {
  std::int64_t block_queries;
  FlashTiling usual;
  std::size_t (*scratch_bytes)(const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim);
  void (*run)(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
              std::byte* scratch);

  FlashTiling tiling(const AttentionTiling& wanted) const {
    return {wanted.key_block == 0 ? usual.key_block : wanted.key_block, wanted.chunk == 0 ? usual.chunk : wanted.chunk};
  }
};

/// The implementation in float32 SIMD.
FlashImplementation flash_simd();

/// The query heads of one sequence that share `key_head`.
FlashHeads flash_heads(const AttentionCall& call, const AttentionSequence& s, std::int64_t key_head);

/// Blocks [first, last) of one sequence's key head.
struct FlashChunk {
  const AttentionSequence* sequence;
  std::int64_t key_head;
  std::int64_t first;
  std::int64_t last;
};

/// At most `most` blocks of `size` queries a chunk, fewer where that keeps the threads busy unless `exactly`.
std::vector<FlashChunk> cut_chunks(const AttentionCall& call, std::int64_t size, std::int64_t most, bool exactly);

AttentionRefusal refuse_without_amx();
AttentionRefusal refuse_wide_heads(const AttentionProblem& problem, std::int64_t widest);

}  // namespace rondo::cpu
