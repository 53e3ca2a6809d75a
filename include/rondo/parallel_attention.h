// Attention over tokens that lie on several ranks, for code that has a model of its own: Ulysses, ring, or both (USP,
// arXiv 2405.07719).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "rondo/attention.h"
#include "rondo/export.h"
#include "rondo/parallel.h"

namespace rondo RONDO_PUBLIC {

class ParallelAttention {
 public:
  /// Every rank of the world makes its own, at the same time and with the same options; `cfg_parallel` and
  /// `data_parallel` make groups that share nothing here. Throws InvalidArgument for degrees that do not make up the
  /// world.
  ParallelAttention(std::shared_ptr<ParallelWorld> world, const ParallelOptions& options);
  ParallelAttention(ParallelAttention&&) noexcept;
  ParallelAttention& operator=(ParallelAttention&&) noexcept;
  ~ParallelAttention();

  /// This rank's tokens of self-attention: query [B, S, N, D], key [B, S, Nk, D], value [B, S, Nk, Dv] (or BNSD, by
  /// options.layout). Ranks hold the sequence in their order; S may differ from rank to rank and be 0. `mask`, when
  /// defined, is that of the whole sequence, on every rank: floating, [1 or B, 1 or N, all S, all S]. -> this rank's
  /// tokens of the result, in the query's dtype and layout, and with options.return_lse their LSE, [B, N, S] float32.
  /// Every rank calls it alike. Throws InvalidArgument, Unsupported (BSH, a kernel that cannot be part of a ring),
  /// CommunicationError.
  AttentionResult forward(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask = {},
                          const AttentionOptions& options = {});

  /// Packed sequences: query [T, N, D], key [T, Nk, D], value [T, Nk, Dv] of this rank; boundaries are those of the
  /// whole, on every rank, as in attention_forward_varlen. Queries and keys are the same tokens. LSE [N, T].
  AttentionResult forward_varlen(const Tensor& query, const Tensor& key, const Tensor& value,
                                 std::span<const std::int32_t> cu_seqlens, const VarlenAttentionOptions& options = {});

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace RONDO_PUBLIC
