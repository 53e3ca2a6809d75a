#include "backends/cpu/onednn/quantized_input.h"

#include "ops/linear.h"

namespace rondo::cpu {

const LinearQuantization& quantization_of(const KernelRequest& request) {
  return *static_cast<const LinearOp&>(request.op).quantization();
}

std::string weight_format(LinearQuantization quantization) {
  quantization.native_steps.clear();
  return quantization.to_string();
}

InputPreparation::InputPreparation(const LinearQuantization& quantization, std::int64_t inputs)
    : inputs_(inputs), rotation_(quantization.rotation) {
  if (!quantization.smooth.defined() && rotation_ == 0) return;
  for (std::int64_t k = 0; k < inputs; ++k) {
    const float smooth = quantization.smooth.defined() ? quantization.smooth.as<float>()[k] : 1.0F;
    factors_.push_back((rotation_ == 0 ? 1.0F : rotation_sign(k)) / smooth);
  }
}

std::pair<RowMap, std::int64_t> InputPreparation::prepare(const RowMap& x, std::int64_t row, float* own) const {
  if (!changes_rows()) return {x, row};
  transform_row(x, row, inputs_, {factors_.data(), rotation_}, own);
  return {RowMap(Tensor::borrow(own, {1, inputs_}, DType::f32)), 0};
}

}  // namespace rondo::cpu
