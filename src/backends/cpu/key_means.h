// The smoothing of quantised attention: the mean of each sequence's keys, and what the LSE gets back for it.
#pragma once

#include <cstddef>

#include "attention/attention_kernel.h"

namespace rondo::cpu {

class KeyMeans {
 public:
  /// Memory that the means of a problem take; 0 where keys are not smoothed.
  static std::size_t bytes(const AttentionProblem& problem);

  /// `memory` of bytes(); null: keys stay as they are.
  KeyMeans(const AttentionCall& call, float* memory);

  /// [head_dim], or null.
  const float* of(const AttentionSequence& sequence, std::int64_t key_head) const;

  /// Adds to every LSE what the scores of its query lost.
  void put_back() const;

 private:
  const AttentionCall& call_;
  float* means_;  // [sequence][key head][head_dim]
};

}  // namespace rondo::cpu
