// Products of a linear layer, by the library that has them: cuBLASLt (in tests without a GPU, a plain loop).
#pragma once

#include <memory>

#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {

/// y [rows, outputs] = x [rows, inputs] w^T, with w [outputs, inputs].
struct ProductShape {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
  /// Of all operands; with s8, y is s32 and has no bias.
  DType dtype;
  bool has_bias = false;
  /// Whether the activation (by tanh) is taken before y is rounded.
  bool gelu = false;
};

/// Immutable: may run on several threads.
class Product {
 public:
  virtual ~Product() = default;
  /// Operands are dense. `bias` is undefined where there is none.
  virtual void run(const CudaRun& run, const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) const = 0;
};

/// For the calling thread's device. Throws Unsupported where the library has no algorithm.
std::unique_ptr<const Product> make_product(const ProductShape& shape);

}  // namespace rondo::cuda
