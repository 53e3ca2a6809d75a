#include "backends/cpu/onednn/quantized_input.h"

namespace rondo::cpu {

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
