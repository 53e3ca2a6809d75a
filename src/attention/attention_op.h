// Scaled dot-product attention as an operator of the graph.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention/attention_kernel.h"
#include "attention/attention_request.h"
#include "ops/operator.h"

namespace rondo {

/// query [B, Sq, H, D], key [B, Sk, Hk, D], value [B, Sk, Hk, Dv], bias [B or 1, H or 1, Sq, Sk] float32 (optional)
/// -> [B, Sq, H, Dv] in query's dtype: softmax(scale * Q K^T + bias) V per head (Vaswani et al., 2017). H is a multiple
/// of Hk. `causal` hides keys after the query, both aligned at the end. A row that sees no key gives 0. A partial one,
/// over some of the keys, gives float32 and a second output, lse [B, H, Sq] float32: the logarithm of the sum of
/// exp(score), -infinity where nothing is visible.
/// With `sequences` (of batch row 0, the only one) each query sees its own sequence's keys alone, and `causal` counts
/// within it.
class AttentionOp final : public Operator {
 public:
  /// `request` says how the kernel is chosen, and how operands are quantised on the way
  /// (attention/quantized_attention.h).
  AttentionOp(double scale, bool causal, AttentionRequest request = {}, bool partial = false,
              std::vector<AttentionSequence> sequences = {})
      : scale_(scale),
        causal_(causal),
        partial_(partial),
        request_(std::move(request)),
        sequences_(std::move(sequences)) {
    if (!request_.native_steps.empty())
      native_ = std::make_unique<AttentionOp>(scale, causal, request_.native(), partial, sequences_);
  }
  /// The same under another request.
  std::shared_ptr<const AttentionOp> with(AttentionRequest request) const {
    return std::make_shared<const AttentionOp>(scale_, causal_, std::move(request), partial_, sequences_);
  }
  /// Of packed ones; empty for most.
  const std::vector<AttentionSequence>& sequences() const { return sequences_; }
  double scale() const { return scale_; }
  bool causal() const { return causal_; }
  bool partial() const { return partial_; }
  const AttentionRequest& request() const { return request_; }

  std::string_view name() const override { return "attention"; }
  std::string attributes() const override {
    return fmt::format("scale={} causal={}{}{}{}", scale_, causal_, partial_ ? " partial" : "", to_string(request_),
                       sequence_text());
  }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;
  const Operator* fallback() const override { return native_.get(); }
  bool falls_back_at(int step) const override;

 private:
  std::string sequence_text() const;
  /// Those of a call: packed ones, or one for every batch row.
  std::vector<AttentionSequence> sequences_of(const Shape& query, const Shape& key) const;
  void quantized_reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const;

  double scale_;
  bool causal_;
  bool partial_;
  AttentionRequest request_;
  std::vector<AttentionSequence> sequences_;
  std::unique_ptr<const AttentionOp> native_;
};

}  // namespace rondo
