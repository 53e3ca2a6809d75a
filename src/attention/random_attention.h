// Random operands of a problem: what the tuner and the benchmark measure on, and what the tests compare kernels on.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "attention/attention_kernel.h"

namespace rondo {

/// How operands are drawn.
struct AttentionSample {
  std::uint64_t seed = 0;
  /// Standard deviation of query and key: scores grow with its square. Values have 1.
  double spread = 1;
  /// Elements between one row and the next in memory.
  std::int64_t padding = 0;
};

/// Normal noise in the problem's dtype and layout. A boolean mask hides a third of its keys; an additive one adds
/// noise and hides a fifth with -infinity. Sequence i of B in a varlen problem has i + 1 of B parts of the longest.
/// More than a million elements repeat themselves.
struct RandomAttention {
  explicit RandomAttention(const AttentionProblem& problem, const AttentionSample& sample = {});

  /// What a kernel takes, with memory for the result.
  AttentionCall call(int threads) const;

  /// Operations: 2 for each multiply-add of both products over all pairs of a query and a key that causality lets it
  /// see.
  double flops() const;

  /// The largest magnitude of a scaled score, masked ones included.
  double largest_score() const;

  AttentionProblem problem;
  Tensor query;  // [B, Sq, N, D], or packed [1, T, N, D]
  Tensor key;
  Tensor value;
  Tensor mask;
  std::optional<double> scale;
  std::vector<std::int32_t> cu_seqlens_q;  // of a varlen problem
  std::vector<std::int32_t> cu_seqlens_k;
  std::vector<AttentionSequence> sequences;
};

}  // namespace rondo
