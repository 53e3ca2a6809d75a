// What quantised linears do with their input before it is multiplied.
#pragma once

#include <vector>

#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_tiles.h"
#include "quantization/linear_quantization.h"

namespace rondo::cpu {

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
