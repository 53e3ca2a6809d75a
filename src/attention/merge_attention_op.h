// The merge of two partial attentions as an operator of the graph.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// a [B, S, N, D], its lse [B, N, S], b and its lse, all float32 -> attention over the union of both sets of keys, in
/// the given dtype, and its lse (attention/merge_states.h).
class MergeAttentionOp final : public Operator {
 public:
  explicit MergeAttentionOp(DType dtype) : dtype_(dtype) {}
  std::string_view name() const override { return "merge_attention"; }
  std::string attributes() const override { return std::string(dtype_name(dtype_)); }
  int overwritable_input() const override { return 0; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  DType dtype_;
};

}  // namespace rondo
