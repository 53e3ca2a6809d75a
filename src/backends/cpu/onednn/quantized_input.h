// What the kernels of quantised linears share: how the layer is quantised, and what is done to its input before it is
// multiplied.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_tiles.h"
#include "backends/kernel.h"
#include "quantization/linear_quantization.h"

namespace rondo::cpu {

/// Of a request whose operator is quantised.
const LinearQuantization& quantization_of(const KernelRequest& request);

/// What a packed weight depends on: all of the quantisation but the steps at which it is not used.
std::string weight_format(LinearQuantization quantization);

/// Smoothing and rotation of the inputs of one layer.
class InputPreparation {
 public:
  InputPreparation(const LinearQuantization& quantization, std::int64_t inputs);

  /// False when rows are multiplied as they are.
  bool changes_rows() const { return !factors_.empty(); }
  /// Row `row` of x, or what became of it in `own` [inputs]; the second is its index in the first.
  std::pair<RowMap, std::int64_t> prepare(const RowMap& x, std::int64_t row, float* own) const;

 private:
  std::int64_t inputs_;
  std::int64_t rotation_;
  std::vector<float> factors_;
};

}  // namespace rondo::cpu
