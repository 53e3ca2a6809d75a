// Attention in float64, one query at a time: what every kernel is tested against.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

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

/// The kernel "reference": everything, slowly.
std::shared_ptr<const AttentionKernel> reference_attention_kernel();

}  // namespace rondo
