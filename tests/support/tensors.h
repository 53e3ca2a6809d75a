// Random tensors, comparison of tensors, and running one operator's kernel against its reference.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ops/operator.h"
#include "rondo/tensor.h"

namespace rondo::test {

/// True in builds with AddressSanitizer, where long tests do with less.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

/// Normal noise times `scale`, rounded to `dtype`.
Tensor random_tensor(const Shape& shape, DType dtype, std::uint32_t seed, double scale = 1.0);

/// An operand of a kernel under test. A weight is handed to the kernel through a store, as a model's is.
struct Operand {
  Tensor tensor;
  bool is_weight = false;
};

/// How far a kernel may be from the float64 reference: |error| <= absolute + relative * |reference|.
struct Tolerance {
  double absolute;
  double relative;
};

/// For float32 results about `float_error`; for narrower results that plus half a unit in the last place.
Tolerance tolerance_for(DType dtype, double float_error);

/// Runs the kernel `kernel` with `threads` threads, on a device the first that takes the problem; with such gaps
/// between the outputs' rows. Throws Error when it is not registered, Unsupported when it refuses the problem.
std::vector<Tensor> run_kernel(const Operator& op, const std::vector<Operand>& operands, const std::string& kernel,
                               int threads, RowGaps gaps = RowGaps::none);

/// Runs the kernel likewise, also with the gaps between rows that the operator takes, and compares every output with
/// the operator's reference. Passes where a device refuses the problem.
void expect_kernel_matches_reference(const Operator& op, const std::vector<Operand>& operands,
                                     const std::string& kernel, int threads, Tolerance tolerance);

/// The name of the kernel that would be chosen.
std::string chosen_kernel(const Operator& op, const std::vector<Operand>& operands);

/// Largest |a - b| over the largest |b|.
double relative_error(const Tensor& a, const Tensor& b);

/// What the body throws of Rondo's errors; "(no error)" when nothing.
std::string message_of(const std::function<void()>& body);

/// True when this process was started to test a CPU level that the CPU lacks: main() then exits with 77.
bool test_level_is_missing();

}  // namespace rondo::test
