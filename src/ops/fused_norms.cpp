#include "ops/fused_norms.h"

#include <array>

#include "ops/elementwise.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo {
namespace {

template <class T>
std::vector<T> with_parameters(const T& x, std::span<const T> parameters) {
  std::vector<T> operands{x};
  operands.insert(operands.end(), parameters.begin(), parameters.end());
  return operands;
}

/// The only output of `op`, in float64.
RefTensor result_of(const Operator& op, const std::vector<RefTensor>& inputs) {
  std::array outputs{RefTensor{inputs[0].shape, std::vector<double>(inputs[0].values.size())}};
  op.reference(inputs, outputs);
  return std::move(outputs[0]);
}

}  // namespace

std::vector<TensorType> LayerNormScaleShiftOp::infer(std::span<const TensorType> inputs) const {
  check(inputs.size() == 3 || inputs.size() == 5, "takes 3 or 5 inputs, given {}", inputs.size());
  check_floating(inputs);
  for (const TensorType& vector : inputs.subspan(1, 2)) {
    check(is_modulation_of(vector.shape, inputs[0].shape),
          "input {} and scale or shift {} do not fit; allowed are [B, S, D] and [B, D], [B, 1, D] or [B, S, D]",
          inputs[0].shape.to_string(), vector.shape.to_string());
  }
  return LayerNormOp(eps_).infer(with_parameters(inputs[0], inputs.subspan(3)));
}

void LayerNormScaleShiftOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor normed = result_of(LayerNormOp(eps_), with_parameters(inputs[0], inputs.subspan(3)));
  ModulateOp().reference(std::array{normed, inputs[1], inputs[2]}, outputs);
}

std::vector<TensorType> AddRmsNormOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 3);
  check_floating(inputs);
  check(inputs[0].shape == inputs[1].shape && inputs[0].dtype == inputs[1].dtype,
        "input {} and residual {} differ; allowed are two of one shape and dtype", inputs[0].to_string(),
        inputs[1].to_string());
  const TensorType type = RmsNormOp(eps_).infer(with_parameters(inputs[0], inputs.subspan(2)))[0];
  return {type, type};
}

void AddRmsNormOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  BinaryOp(BinaryKind::add).reference(inputs.first(2), outputs.subspan(1));
  RmsNormOp(eps_).reference(with_parameters(RefTensor(outputs[1]), inputs.subspan(2)), outputs.first(1));
}

std::vector<TensorType> RmsNormRopeOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 4);
  RmsNormOp(eps_).infer(with_parameters(inputs[0], inputs.subspan(3)));
  return RopeOp(mode_).infer(inputs.first(3));
}

void RmsNormRopeOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor normed = result_of(RmsNormOp(eps_), with_parameters(inputs[0], inputs.subspan(3)));
  RopeOp(mode_).reference(std::array{normed, inputs[1], inputs[2]}, outputs);
}

}  // namespace rondo
