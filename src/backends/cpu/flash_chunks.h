// How flash attention's work is cut: into chunks of query blocks, each for one sequence and one key head.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_kernel.h"
#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

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

AttentionRefusal refuse_wide_heads(const AttentionProblem& problem, std::int64_t widest);

}  // namespace rondo::cpu
