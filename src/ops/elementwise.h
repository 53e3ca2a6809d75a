// Operators that look at one element at a time: activations, sums, products, changes of dtype.
#pragma once

#include "ops/operator.h"
#include "rondo/operators.h"

namespace rondo {

std::string_view activation_name(ActivationKind kind);
/// The activation in float64.
double activation_value(ActivationKind kind, double x);

/// x of any shape -> the same shape; the formulas stand at ActivationKind.
class ActivationOp final : public Operator {
 public:
  explicit ActivationOp(ActivationKind kind) : kind_(kind) {}
  ActivationKind kind() const { return kind_; }
  std::string_view name() const override { return "activation"; }
  std::string attributes() const override { return std::string(activation_name(kind_)); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  ActivationKind kind_;
};

/// x [..., 2 F] = [hidden, gate] -> hidden * silu(gate), [..., F] (Shazeer, 2020)
class SwigluOp final : public Operator {
 public:
  std::string_view name() const override { return "swiglu"; }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

enum class BinaryKind : std::uint8_t { add, multiply };

/// a [..., shape of b], b -> a's shape: b repeats along a's leading axes.
class BinaryOp final : public Operator {
 public:
  explicit BinaryOp(BinaryKind kind) : kind_(kind) {}
  BinaryKind kind() const { return kind_; }
  std::string_view name() const override { return kind_ == BinaryKind::add ? "add" : "multiply"; }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::optional<std::size_t> token_axis(std::span<const TensorType> inputs, std::size_t index) const override;
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  BinaryKind kind_;
};

/// x -> x in another floating dtype.
class CastOp final : public Operator {
 public:
  explicit CastOp(DType dtype) : dtype_(dtype) {}
  std::string_view name() const override { return "cast"; }
  std::string attributes() const override { return std::string(dtype_name(dtype_)); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  DType dtype_;
};

}  // namespace rondo
