// What the operators' files share: argument rules, and the second phase, which is the same for all.
#pragma once

#include <cmath>
#include <string>

#include "../formats.h"
#include "../tensors.h"

using namespace ascend_simulator;

/// The second phase of an operator.
#define SECOND_PHASE(name)                                                                           \
  extern "C" int name(void* workspace, std::uint64_t bytes, aclOpExecutor* executor, void* stream) { \
    return run(#name, workspace, bytes, executor, stream);                                           \
  }
/// The first phase's last parameters.
#define WORKSPACE_AND_EXECUTOR std::uint64_t *workspace_bytes, aclOpExecutor **executor

namespace ascend_simulator {

inline const std::vector<Dtype> kFloats{Dtype::float32, Dtype::float16, Dtype::bfloat16};
inline const std::vector<Dtype> kHalves{Dtype::float16, Dtype::bfloat16};
inline const std::vector<Dtype> kIndices{Dtype::int32, Dtype::int64};

/// Any strides.
inline Argument in(const aclTensor* tensor, const char* name, const std::vector<Dtype>& dtypes = kFloats) {
  return {tensor, name, false, false, dtypes};
}
inline Argument optional_in(const aclTensor* tensor, const char* name, const std::vector<Dtype>& dtypes = kFloats) {
  return {tensor, name, true, false, dtypes};
}
/// Where the documents do not say that there may be gaps.
inline Argument dense(const aclTensor* tensor, const char* name, const std::vector<Dtype>& dtypes = kFloats) {
  return {tensor, name, false, true, dtypes};
}
inline Argument optional_dense(const aclTensor* tensor, const char* name, const std::vector<Dtype>& dtypes = kFloats) {
  return {tensor, name, true, true, dtypes};
}

/// "" where it holds.
inline std::string rule(bool holds, const char* broken) { return holds ? "" : broken; }
template <typename... Rest>
std::string rule(bool holds, const char* broken, Rest... rest) {
  return holds ? rule(rest...) : broken;
}

/// The view of an argument that may be null; only to be read where it is not.
inline View view_of(const aclTensor* tensor) {
  static const aclTensor nothing{{0}, {1}, Dtype::float32, Format::nd, nullptr, {}};
  return View(tensor == nullptr ? nothing : *tensor);
}

inline Dims broadcast_dims(const Dims& a, const Dims& b) {
  Dims wide(std::max(a.size(), b.size()), 1);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    const std::int64_t x = i < a.size() ? a[a.size() - 1 - i] : 1;
    const std::int64_t y = i < b.size() ? b[b.size() - 1 - i] : 1;
    wide[wide.size() - 1 - i] = x == 1 ? y : x;
  }
  return wide;
}

/// cubeMathType: float32 keeps its precision with 0 where the chip multiplies it; elsewhere 1 allows less.
inline std::string math_rule(const aclTensor* x, std::int8_t math) {
  const bool f32 = x != nullptr && x->dtype == Dtype::float32;
  return rule(math >= 0 && math <= 3, "cubeMathType", !f32 || soc_has_bfloat16() || math == 1,
              "this chip takes float32 with cubeMathType 1 only", f32 || math <= 1, "cubeMathType is for float32 only");
}

/// Chips whose products know no float32 round its operands to float16.
inline std::vector<float> product_operand(const View& view) {
  std::vector<float> values = view.floats();
  if (view.dtype != Dtype::float32 || soc_has_bfloat16()) return values;
  for (float& value : values) value = SmallFloat<5, 10, false>::decode(SmallFloat<5, 10, false>::encode(value));
  return values;
}

/// c [m, n] = a [m, k] b [k, n], row-major floats, sums in float.
void multiply_matrices(const float* a, const float* b, float* c, std::int64_t m, std::int64_t k, std::int64_t n);

}  // namespace ascend_simulator
