// Attention in float64, one query at a time: what every kernel is tested against.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention_kernel.h"

namespace rondo {

/// One query's keys and values as float64 rows, by key index. `bias` is what is added to the scaled score; -infinity
/// hides the key.
struct ReferenceKeys {
  std::int64_t count;
  std::function<const double*(std::int64_t key)> key;
  std::function<const double*(std::int64_t key)> value;
  std::function<double(std::int64_t key)> bias;
};

/// Writes softmax(scale * query . keys + bias) values to `output` and returns the log of the sum of exp(score):
/// -infinity, and 0 for output, when nothing is visible.
double reference_attention_row(std::span<const double> query, const ReferenceKeys& keys, double scale,
                               std::span<double> output);

/// One head's rows of a sequence in float64, [count][width].
std::vector<double> reference_head(const Tensor& tensor, std::int64_t batch, std::int64_t begin, std::int64_t count,
                                   std::int64_t head);

/// A mask as what is added to scores: 0 where there is none, -infinity where a key is hidden.
class ReferenceMask {
 public:
  explicit ReferenceMask(const Tensor& mask);
  double at(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;

 private:
  Shape shape_;
  std::vector<double> values_;
};

/// Rounds one query's result, and its LSE where one is wanted, to where the call wants them.
void store_reference_row(const AttentionCall& call, const AttentionSequence& sequence, std::int64_t head,
                         std::int64_t query, std::span<const double> row, double lse);

/// The kernel "reference": everything, slowly.
std::shared_ptr<const AttentionKernel> reference_attention_kernel();

}  // namespace rondo
